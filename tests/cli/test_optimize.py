"""`foreword optimize`: a better prompt becomes the next version of the start; nothing better, nothing stored."""

import json
from pathlib import Path
from typing import Any

import pytest

from follower import Follower
from foreword.prompts import Prompt
from foreword.table import PromptTable

TASK = """name: toy
data: rows.csv
split: {dev: 60, test: 100}
inputs: [text]
target: {column: label, choices: [bad, good]}
"""


@pytest.fixture
def follower(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that some words help, in the place of whatever backbone is named, and rows that show it."""
    monkeypatch.setattr("foreword.jobs.search.load_model", lambda *_: Follower())
    rows = [f"{('fine', 'poor')[i // 3 % 2]} film {i},{('good', 'bad')[i // 3 % 2]}" for i in range(310)]
    (project / "rows.csv").write_text("\n".join(["text,label", *rows]))
    (project / "toy.yaml").write_text(TASK)


SEARCH = ("--task", "toy.yaml", "--budget", "1500calls")


@pytest.mark.usefixtures("follower")
def test_the_result_is_the_next_version_and_tells_where_it_comes_from(call: Any) -> None:
    done = call("optimize", "plain.prompt", *SEARCH, "--alias", "staging", "--out", "kept", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["prompt"], document["improved"], document["test"]["rows"]) == ("plain:2", True, 100)
    assert document["dev"]["found"] > document["dev"]["start"]
    assert document["history"][0]["dev"] <= max(step["dev"] for step in document["history"])
    assert " calls  dev 0." in done.stderr
    table = PromptTable.open()
    stored = table.find("plain@staging")
    assert (stored.ref, stored.parent) == ("plain:2", "plain:1")
    assert stored.origin["method"] == "gepa"
    assert stored.origin["calls"] == str(document["calls"])
    assert table.get("plain:2").body == document["body"]
    assert table.get("plain:1") == Prompt.load("plain.prompt")
    again = call("optimize", "plain:1", *SEARCH, "--out", "kept")
    assert again.exit_code == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "plain:2", "the same search finds the same"
    assert call("optimize", "plain:1", *SEARCH, "--out", "kept", "--seed", 3).exit_code == 2


@pytest.mark.usefixtures("follower")
def test_nothing_better_is_told_and_nothing_is_stored(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Follower, "_say", lambda *_: "good")
    done = call("optimize", "plain.prompt", "--task", "toy.yaml", "--budget", "300calls")
    assert done.exit_code == 0, done.stderr
    assert "Nothing that was tried does better on dev than plain; keep it." in done.stdout
    assert PromptTable.open().list() == []


def test_what_is_wrong_with_the_call_is_told_at_once(call: Any) -> None:
    for more, said in (
        (("--budget", "soon"), "write it as 90s"),
        (("--proposer", "gpt"), "write 'backbone' or openai:"),
        (("--alias", "latest"), "latest"),
    ):
        done = call("optimize", "plain.prompt", "--task", "toy.yaml", *more)
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_a_real_if_tiny_backbone_is_searched_calibrated_and_asked_for_wordings(call: Any) -> None:
    done = call(
        "optimize", "plain.prompt", "--task", "toy.yaml", "--budget", "400calls", "--proposer", "backbone",
        "--backbone", "tiny", "--dtype", "float32", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["tried"] > 1
    assert document["history"][0]["body"] == "Review: {{ text }}\nSentiment:"
    assert document["prompt"] == ("plain:2" if document["improved"] else None)
    assert any("are more than the 256" in reason for reason in document["refused"]), "too long a question for it"


@pytest.mark.slow
def test_the_real_backbone_finds_its_way(project: Path, call: Any) -> None:
    """From a form that says nothing of what is asked, on short made-up reviews."""
    words = {"good": ["warm", "funny", "clever", "moving"], "bad": ["dull", "silly", "tedious", "clumsy"]}
    kinds = ("comedy", "drama", "western", "cartoon", "film")
    rows = [
        f"A {w} and {o} {k}.,{label}" for label, ws in words.items() for w in ws for o in ws if w != o for k in kinds
    ]
    (project / "rows.csv").write_text("\n".join(["text,label", *rows]))
    (project / "toy.yaml").write_text(TASK.replace("{dev: 60, test: 100}", "{dev: 24, test: 30}"))
    (project / "bare.prompt").write_text("---\noutput: {choices: [bad, good]}\n---\n{{ text }}\nZ:")
    done = call(
        "optimize", "bare.prompt", "--task", "toy.yaml", "--budget", "500calls", "--proposer", "backbone", "--json"
    )
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["dev"]["found"] >= document["dev"]["start"]
    assert document["tried"] >= 2, "it ends early where all is right"
