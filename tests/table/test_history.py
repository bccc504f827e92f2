"""What a team needs around versions: parents, origins, tags, search, deletion with undo, the log; in every database."""

import random
from datetime import UTC

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreword.errors import UsageError
from foreword.prompts import Prompt, SoftTokens
from foreword.table import AliasMove, Deletion, PromptTable, Stored


def refs(entries: list[Stored]) -> list[str]:
    return [entry.ref for entry in entries]


def test_a_version_knows_what_it_was_made_from_and_how(table: PromptTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    soft = SoftTokens({"embeddings": np.ones((2, 4), np.float32)}, "tiny", "f" * 64, "prompt-tuning", "run-1", 8)
    assert table.put(Prompt("hard", "a"), alias="prod").parent is None
    assert table.put(Prompt("hard", "b")).parent == "hard:1"
    how = {"data": "d" * 64, "run": "run-1", "table": "postgresql://me:secret@host/db?password=secret", "näme": "\0ü"}
    made = table.put(Prompt("soft", "{{ virtual(2) }}", soft=soft), parent="hard@prod", origin=how)
    assert made.parent == "hard:1", "the version, for the alias may move"
    kept = {**how, "table": "postgresql://•••@host/db?password=•••", "näme": "ü"}
    assert table.find("soft").origin == made.origin == kept
    again = table.put(Prompt("soft", "{{ virtual(2) }}", soft=soft), parent="hard", origin={"other": "x"}, tags=["t"])
    assert (again.ref, again.parent, again.origin, again.tags) == ("soft:1", "hard:1", kept, ("t",))
    table.delete("hard:2")
    assert table.put(Prompt("hard", "c")).parent == "hard:1", "the newest that is there"
    assert table.put(Prompt("late", "c"), parent="hard:2").parent == "hard:2", "it took long, and that went meanwhile"
    for parent, why in (
        ("hrad", "no prompt 'hrad'; did you mean 'hard'"),
        ("hard:9", "no version 9"),
        ("hard@x", "no alias"),
    ):
        with pytest.raises(UsageError, match=why):
            table.put(Prompt("new", "a"), parent=parent)
    with pytest.raises(UsageError, match="origin 'n': 3 is not text"):
        table.put(Prompt("new", "a"), origin={"n": 3})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="10,000 at most"):
        table.put(Prompt("new", "a"), origin={"n": "x" * 20_000})
    with pytest.raises(UsageError, match="no prompt 'new'"):
        table.get("new")


def test_every_move_of_an_alias_is_in_its_history(table: PromptTable, monkeypatch: pytest.MonkeyPatch) -> None:
    for user, body in (("ada", "a"), ("bob", "b"), ("ada", "c")):
        monkeypatch.setenv("LOGNAME", user)
        table.put(Prompt("x", body), alias="prod" if body != "b" else "staging", message=f"made {body}")
    table.alias("x", "prod", 2, "back, it was worse")
    table.alias("x", "prod", 2, "no move")
    table.put(Prompt("y", "a"), alias="prod")
    moves = table.alias_history("x")
    assert [(m.alias, m.before, m.version, m.author, m.message) for m in moves] == [
        ("prod", 3, 2, "ada", "back, it was worse"),
        ("prod", 1, 3, "ada", "made c"),
        ("staging", None, 2, "bob", "made b"),
        ("prod", None, 1, "ada", "made a"),
    ]
    assert all(move.name == "x" and move.created.tzinfo is UTC for move in moves)
    assert table.alias_history("x", "prod", limit=1) == moves[:1]
    with pytest.raises(UsageError, match="no prompt 'z'"):
        table.alias_history("z")

    log = table.log("x")
    assert [event.ref if isinstance(event, Stored) else (event.alias, event.version) for event in log] == [
        ("prod", 2), ("prod", 3), "x:3", ("staging", 2), "x:2", ("prod", 1), "x:1",
    ]  # fmt: skip
    assert [event for event in log if isinstance(event, AliasMove)] == moves
    assert table.log("x", limit=3) == log[:3]


def test_an_alias_is_removed_and_the_history_keeps_it(table: PromptTable) -> None:
    for body in "ab":
        table.put(Prompt("x", body), alias="prod")
    table.alias("x", "staging", 1)
    assert table.list()[0].alias_versions == {"prod": 2, "staging": 1}
    assert table.list()[0].aliases == ("prod",)
    assert table.get("x@prod").body == "b"
    assert table.unalias("x", "prod", "over") == 2
    with pytest.raises(UsageError, match="'x' has no alias 'prod'; its aliases: staging"):
        table.get("x@prod")
    with pytest.raises(UsageError, match="'x' has no alias 'stagin'; did you mean 'staging'"):
        table.unalias("x", "stagin")
    assert table.delete("x:2") == ["x:2"], "nothing stands for it any more"
    table.alias("x", "prod", 1)
    assert [(m.before, m.version, m.message) for m in table.alias_history("x", "prod")] == [
        (None, 1, ""), (2, None, "over"), (1, 2, ""), (None, 1, ""),
    ]  # fmt: skip


def test_the_log_keeps_what_was_deleted_by_whom_and_who_brought_it_back(
    table: PromptTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for body in "ab":
        table.put(Prompt("x", body))
    table.put(Prompt("y", "a"))
    monkeypatch.setenv("LOGNAME", "bob")
    table.delete("x:2")
    table.delete("x")
    monkeypatch.setenv("LOGNAME", "ada")
    table.restore("x:1")
    table.delete("x")
    log = table.log("x")
    assert [
        (event.versions, event.restored, event.author) if isinstance(event, Deletion) else getattr(event, "ref", None)
        for event in log
    ] == [((1,), False, "ada"), ((1,), True, "ada"), ((1,), False, "bob"), ((2,), False, "bob"), "x:2", "x:1"]
    assert [event.deleted is not None for event in log if isinstance(event, Stored)] == [True, True]
    assert table.log("x", limit=2) == log[:2]
    table.restore("x:2")
    assert next(event.deleted for event in table.log("x") if isinstance(event, Stored)) is None
    with pytest.raises(UsageError, match="no prompt 'xx'; did you mean 'x'"):
        table.log("xx")
    with pytest.raises(UsageError, match="no prompt 'z'"):
        table.log("z")


def test_a_search_finds_names_descriptions_messages_and_bodies_in_any_case(table: PromptTable) -> None:
    table.put(Prompt("refund-mail", "Write to {{ customer }}."), message="for the Zürich team")
    table.put(Prompt("other", "REFUND policy: 100 % within 30_days"), tags=["policy", "mail"])
    table.put(Prompt("other", "Nothing."), message="shorter")
    table.put(Prompt("tickets", "{{ text }}", description="Who answers a Größe question?"), tags=["mail"])
    for text, found in {
        "refund": ["other:1", "refund-mail:1"], "Refund-": ["refund-mail:1"], "ZÜRICH": ["refund-mail:1"],
        "grösse": ["tickets:1"], "nothing": ["other:2"], "{{ TEXT }}": ["tickets:1"], "100 %": ["other:1"],
        "30_d": ["other:1"], "3%days": [], "30xdays": [], "/": [], "inputs": [], "description": [],
        "": ["other:2", "refund-mail:1", "tickets:1"],
    }.items():  # fmt: skip
        assert refs(table.search(text)) == found, text
    assert refs(table.search("", tag="mail")) == ["other:2", "tickets:1"]
    assert refs(table.search("", limit=1)) == ["other:2"]
    assert refs(table.search("", limit=1, after="other:2")) == ["refund-mail:1"]
    table.delete("other:2")
    assert refs(table.search("nothing")) == []
    with pytest.raises(UsageError, match="1,000 characters at most"):
        table.search("x" * 1_001)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30))
def test_any_text_may_be_searched_for(table: PromptTable, text: str) -> None:
    table.put(Prompt("x", "a"), message=text)
    table.put(Prompt("x", "b"), message="")
    assert isinstance(table.search(text), list)
    if text.isprintable():
        assert "x" in [entry.name for entry in table.search(text)]


def test_tags_belong_to_a_prompt_whatever_its_version(table: PromptTable) -> None:
    assert table.put(Prompt("x", "a"), tags=["support", "mail", "mail"]).tags == ("mail", "support")
    assert table.put(Prompt("x", "b")).tags == ("mail", "support")
    table.put(Prompt("y", "b"), tags=["mail"])
    assert table.tag("x", "2026", "mail") == ("2026", "mail", "support")
    assert refs(table.list(tag="mail")) == ["x:2", "y:1"]
    assert refs(table.list("x", tag="mail")) == ["x:2", "x:1"]
    assert table.list("y", tag="support") == table.list(tag="none") == []
    assert table.untag("x", "mail", "2026") == ("support",)
    assert refs(table.list(tag="mail")) == ["y:1"]
    with pytest.raises(UsageError, match="'x' has no tag 'suport'; did you mean 'support'"):
        table.untag("x", "suport")
    for wrong in ("", "A", "a b", "a,b", "-a", "x" * 51):
        with pytest.raises(UsageError, match="tag "):
            table.tag("x", wrong)
        with pytest.raises(UsageError, match="tag "):
            table.put(Prompt("z", "a"), tags=[wrong])
    with pytest.raises(UsageError, match="no prompt 'zz'"):
        table.tag("zz", "a")


def test_a_listing_is_read_page_by_page(table: PromptTable) -> None:
    names = sorted(f"{a}{mark}{b}" for a in "ab" for b in "cd" for mark in ("", ".", "-", "_"))
    for name in names:
        table.put(Prompt(name, "a"))
    for body in "bcdef":
        table.put(Prompt("a.c", body))

    def pages(name: str | None, limit: int) -> list[str]:
        seen: list[str] = []
        while page := table.list(name, limit=limit, after=seen[-1] if seen else None):
            assert len(page) <= limit
            seen += refs(page)
        return seen

    assert pages(None, 3) == pages(None, 100) == refs(table.list())
    assert [ref.partition(":")[0] for ref in pages(None, 5)] == names
    assert pages("a.c", 4) == [f"a.c:{version}" for version in (6, 5, 4, 3, 2, 1)]
    assert table.list("a.c", after="a.c:1") == table.list(after="zz") == []
    for after in ("ac:1", "a.c"):
        with pytest.raises(UsageError, match=r"a page of 'a\.c' begins after one of its versions"):
            table.list("a.c", after=after)
    for ask in (table.list, lambda limit: table.search("a", limit=limit), lambda limit: table.log("a.c", limit)):
        with pytest.raises(UsageError, match="a limit of -1 shows nothing"):
            ask(limit=-1)


def test_what_is_deleted_vanishes_and_comes_back(table: PromptTable) -> None:
    for body in "abc":
        table.put(Prompt("x", body))
    table.put(Prompt("y", "a"), alias="prod", tags=["t"])
    table.alias("x", "prod", 2)
    assert table.delete("x:3") == ["x:3"]
    assert table.get("x").body == "b"
    assert refs(table.list("x")) == ["x:2", "x:1"]
    with pytest.raises(UsageError, match="'x:3' is deleted; 'foreword prompts restore x:3' brings it back"):
        table.get("x:3")
    with pytest.raises(UsageError, match="'x:2' is what prod means; point the alias elsewhere first"):
        table.delete("x:2")
    assert table.put(Prompt("x", "c")).version == 4, "a number is never given twice"
    assert table.delete("x") == ["x:1", "x:2", "x:4"]
    assert refs(table.list()) == ["y:1"]
    for wrong in (
        lambda: table.get("x"), lambda: table.get("x@prod"), lambda: table.list("x"),
        lambda: table.unalias("x", "prod"),
        lambda: table.tag("x", "a"), lambda: table.alias("x", "prod", 1), lambda: table.delete("x"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="'x' is deleted; 'foreword prompts restore x' brings it back"):
            wrong()
    assert table.put(Prompt("x", "a")).ref == "x:5", "a name that was deleted may be used again"
    with pytest.raises(UsageError, match="'x@prod' means 'x:2', which is deleted; move the alias"):
        table.get("x@prod")
    assert table.restore("x") == ["x:1", "x:2", "x:4"], "the last deletion is taken back"
    assert table.get("x@prod").body == "b"
    assert table.restore("x") == ["x:3"]
    with pytest.raises(UsageError, match="'x:5' is there: nothing is to be restored"):
        table.restore("x")
    with pytest.raises(UsageError, match="no deleted prompt 'z'; deleted prompts: none yet"):
        table.restore("z")
    for wrong_ref in ("x@prod", "x@latest", "x@latest:1"):
        with pytest.raises(UsageError, match="alias"):
            table.delete(wrong_ref)
    table.delete("y")
    with pytest.raises(UsageError, match="no deleted prompt 'yy'; did you mean 'y'"):
        table.restore("yy")
    assert table.restore("y:1") == ["y:1"]
    assert (table.find("y@prod").tags, table.find("y").aliases) == (("t",), ("prod",))


def test_deleting_and_storing_behave_like_sets_over_many_random_steps(address: str) -> None:
    rng = random.Random(11)
    table, other = PromptTable.open(address), PromptTable.open(address)
    last = 0
    hidden: dict[int, int] = {}  # the step at which a version was deleted
    for step in range(80):
        if "://" not in address:
            table, other = other, table  # what one wrote, the other reads at once
        live = [version for version in range(1, last + 1) if version not in hidden]
        match rng.choice(["put", "put", "delete", "restore", "all"]):
            case "put":
                last += 1
                assert table.put(Prompt("x", f"body {last}")).version == last
            case "delete" if live:
                version = rng.choice(live)
                assert table.delete(f"x:{version}") == [f"x:{version}"]
                hidden[version] = step
            case "all" if live and rng.random() < 0.3:
                assert table.delete("x") == [f"x:{version}" for version in live]
                hidden |= dict.fromkeys(live, step)
            case "restore" if hidden:
                latest = max(hidden.values())
                back = sorted(version for version, when in hidden.items() if when == latest)
                assert table.restore("x") == [f"x:{version}" for version in back]
                hidden = {version: when for version, when in hidden.items() if when != latest}
        live = [version for version in range(last, 0, -1) if version not in hidden]
        if live:
            assert [entry.version for entry in table.list("x")] == live
            assert table.get("x").body == f"body {live[0]}"
            assert table.get(f"x:{live[-1]}").body == f"body {live[-1]}"
        else:
            assert table.list() == []
    assert last > 20
