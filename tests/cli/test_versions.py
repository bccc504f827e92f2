"""`foreword prompts list`, `search`, `log`, `tag`, `delete`: the table as people and programs see it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from foreword.prompts import Prompt
from foreword.table import PromptTable

TINY = ("--backbone", "tiny", "--dtype", "float32", "--tokens", 2, "--steps", 1)


def read(ended: Any) -> dict[str, Any]:
    assert ended.exit_code == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def test_a_listing_and_a_search_are_shown_page_by_page(call: Any) -> None:
    table = PromptTable.open()
    for number in range(7):
        table.put(Prompt(f"p{number}", "Refund?"), message=f"[b]no {number}", tags=["even"] if number % 2 == 0 else [])
    for verb in (("list",), ("search", "REFUND")):
        shown = call("prompts", *verb, "--limit", 3)
        assert re.findall(r"^p\d:1", shown.stdout, re.MULTILINE) == ["p0:1", "p1:1", "p2:1"]
        assert "[b]no 1" in shown.stdout
        assert shown.stdout.endswith("There are more: --after p2:1\n")
        seen, after = [], ()
        while True:
            page = read(call("prompts", *verb, "--limit", 3, *after, "--json"))
            seen += [entry["name"] for entry in page["prompts"]]
            if page["after"] is None:
                break
            after = ("--after", page["after"])
        assert seen == [f"p{number}" for number in range(7)]
        tagged = read(call("prompts", *verb, "--tag", "even", "--json"))
        assert [(entry["name"], entry["tags"]) for entry in tagged["prompts"]] == [
            (f"p{n}", ["even"]) for n in (0, 2, 4, 6)
        ]
    assert call("prompts", "search", "p7").stdout.startswith("Nothing holds 'p7'; stored prompts: p0, p1")
    assert (
        call("prompts", "list", "--tag", "evne").stdout
        == "No prompt has the tag 'evne'; did you mean 'even'? tags: even\n"
    )
    assert call("prompts", "search", "fund", "--tag", "odd").stdout == "No prompt has the tag 'odd'; tags: even\n"
    assert call("prompts", "search", "x", "--tag", "even").stdout.startswith(
        "Nothing holds 'x' among those with the tag"
    )
    assert call("prompts", "list", "p1", "--tag", "even").stdout == "'p1' has no tag 'even'; its tags: none yet\n"
    assert call("prompts", "list", "--after", "z").stdout == "No more.\n"
    assert call("prompts", "list", "--limit", 0).exit_code == 2


def test_the_log_tells_versions_aliases_and_where_a_soft_prompt_comes_from(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert call("prompts", "add", "plain.prompt", "--alias", "prod", "-m", "first", "--tag", "mail").exit_code == 0
    assert call("tune", "toy.yaml", *TINY, "--start", "plain@prod", "--name", "soft", "--alias", "prod").exit_code == 0
    stored = read(call("prompts", "add", "free.prompt", "--parent", "plain@prod", "--json"))
    assert (stored["name"], stored["version"], stored["parent"]) == ("free", 1, "plain:1")
    assert call("prompts", "alias", "soft", "staging", 1, "-m", "looks good").exit_code == 0

    events = read(call("prompts", "log", "soft", "--json"))["events"]
    assert [event["event"] for event in events] == ["alias", "alias", "version"]
    assert [(e["alias"], e["before"], e["version"], e["message"]) for e in events[:1]] == [
        ("staging", None, 1, "looks good")
    ]
    origin = events[2]["origin"]
    assert (origin["start"], events[2]["parent"], origin["task"], origin["backbone"]) == (
        "plain:1",
        "plain:1",
        "toy",
        "tiny",
    )
    assert re.fullmatch("[0-9a-f]{64}", origin["data"])
    lines = call("prompts", "log", "soft").stdout.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d  soft@staging is soft:1, by ada: looks good", lines[0])
    assert re.fullmatch(r".{16}  soft:1 soft, from plain:1, by ada: tuned on toy, run .*", lines[2])
    assert f"                  data: {origin['data']}" in lines
    assert len(read(call("prompts", "log", "soft", "--limit", 1, "--json"))["events"]) == 1


def test_all_aliases_are_listed_and_the_log_keeps_what_is_removed_or_deleted(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    table = PromptTable.open()
    for body in "abc":
        table.put(Prompt("x", body), alias={"a": "prod", "c": "staging"}.get(body))
    assert re.search(r"^x:3 +hard +prod→1, staging ", call("prompts", "list").stdout, re.MULTILINE)
    assert "prod→1" not in call("prompts", "list", "x").stdout
    [listed] = read(call("prompts", "list", "--json"))["prompts"]
    assert (listed["aliases"], listed["alias_versions"]) == (["staging"], {"prod": 1, "staging": 3})

    for given in (("--remove", 1), ("--remove", "--gate", "toy.yaml"), ()):
        assert call("prompts", "alias", "x", "prod", *given).exit_code == 2
    removed = call("prompts", "alias", "x", "prod", "--remove", "-m", "over")
    assert (removed.exit_code, removed.stdout) == (0, "x@prod is removed, was x:1\n")
    assert "has no alias 'prod'; its aliases: staging" in call("prompts", "alias", "x", "prod", "--remove").stderr
    assert read(call("prompts", "alias", "x", "staging", "--remove", "--json"))["before"] == 3
    for verb, prompt in (("delete", "x:2"), ("delete", "x"), ("restore", "x:2"), ("delete", "x")):
        assert call("prompts", verb, prompt).exit_code == 0
    lines = [line[18:] for line in call("prompts", "log", "x").stdout.splitlines()]
    assert lines == [
        "x:2 deleted, by ada", "x:2 restored, by ada", "x:1, x:3 deleted, by ada", "x:2 deleted, by ada",
        "x@staging is removed, was x:3, by ada", "x@prod is removed, was x:1, by ada: over",
        "x@staging is x:3, by ada", "x:3 (deleted) hard, from x:2, by ada",
        "x:2 (deleted) hard, from x:1, by ada",
        "x@prod is x:1, by ada", "x:1 (deleted) hard, by ada",
    ]  # fmt: skip
    events = read(call("prompts", "log", "x", "--json"))["events"]
    assert [event["event"] for event in events[:3]] == ["deleted", "restored", "deleted"]
    assert (events[2]["versions"], events[2]["author"]) == ([1, 3], "ada")
    assert (events[4]["version"], events[4]["before"]) == (None, 3)
    assert events[-1]["deleted"] == events[2]["created"]


def test_tags_and_deletion_with_undo(call: Any, project: Path) -> None:
    call("prompts", "add", "plain.prompt")
    (project / "plain.prompt").write_text((project / "plain.prompt").read_text().replace("Review", "Opinion"))
    call("prompts", "add", "plain.prompt")
    assert call("prompts", "tag", "plain", "mail", "2026").stdout == "plain: 2026, mail\n"
    assert read(call("prompts", "untag", "plain", "mail", "--json")) == {"name": "plain", "tags": ["2026"]}
    assert call("prompts", "untag", "plain", "2026").stdout == "plain: no tags\n"

    gone = call("prompts", "delete", "plain:2").stdout
    assert gone == "plain:2 deleted; 'foreword prompts restore plain:2' brings it back\n"
    assert "Review" in call("prompts", "show", "plain").stdout
    assert read(call("prompts", "delete", "plain", "--json")) == {"deleted": ["plain:1"]}
    assert read(call("prompts", "list", "--json")) == {"prompts": [], "after": None}
    refused = call("prompts", "show", "plain")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "foreword: 'plain' is deleted; 'foreword prompts restore plain' brings it back\n"
    assert read(call("prompts", "restore", "plain", "--json")) == {"restored": ["plain:1"]}
    assert call("prompts", "restore", "plain:2").stdout == "plain:2 restored\n"
    assert "Opinion" in call("prompts", "show", "plain").stdout
