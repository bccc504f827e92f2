"""`foreword prompts alias … --gate`: what is worse does not get through, what moved meanwhile is left alone."""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from foreword.jobs import promotion
from foreword.table import PromptTable

TINY = ("--backbone", "tiny", "--dtype", "float32")
LEANS = "output: {{choices: [bad, good], log_prior: [{}, {}]}}"


@pytest.fixture
def versions(call: Any, project: Path) -> None:
    """plain:1 answers `bad` whatever it reads, plain:2 `good`; nearly all rows of the task `gate` are bad."""
    text = (project / "plain.prompt").read_text()
    for prior in ((-99, 99), (99, -99)):
        (project / "plain.prompt").write_text(text.replace("output: {choices: [bad, good]}", LEANS.format(*prior)))
        assert call("prompts", "add", "plain.prompt").exit_code == 0
    rows = [f"film {i},{'good' if i % 10 == 0 else 'bad'}" for i in range(80)]
    (project / "gate.csv").write_text("\n".join(["text,label", *rows]))
    task = (project / "toy.yaml").read_text().replace("rows.csv", "gate.csv").replace("name: toy", "name: gate")
    (project / "gate.yaml").write_text(task)


@pytest.mark.usefixtures("versions")
def test_a_gate_lets_through_what_is_not_worse(call: Any) -> None:
    def gated(version: int, *more: Any) -> Any:
        return call("prompts", "alias", "plain", "prod", version, "--gate", "gate.yaml", *TINY, *more)

    first = gated(2)
    assert first.exit_code == 0, first.stderr
    assert first.stdout.splitlines() == [
        "accuracy 10.0 % (2.8 to 30.1) on 20 dev rows of gate; there is nothing to compare it with yet.",
        "plain@prod is plain:2",
    ]
    better = json.loads(gated(1, "--json").stdout)
    assert (better["before"], better["version"], better["moved"]) == (2, 1, True)
    assert better["gate"]["difference"]["value"] == pytest.approx(0.8)
    worse = gated(2)
    assert worse.exit_code == 3
    assert "before 90.0 %: a difference of −80.0 points (95 % interval" in worse.stdout
    assert "is plain:2" not in worse.stdout
    assert worse.stderr.splitlines()[-1] == (
        "foreword: plain:2 is worse than plain:1, so plain@prod stays where it is; "
        "'foreword prompts diff plain:1 plain:2 --task gate.yaml' shows on which rows"
    )
    refused = gated(2, "--json")
    document = json.loads(refused.stdout)
    assert (refused.exit_code, document["moved"], document["gate"]["passed"]) == (3, False, False)
    assert PromptTable.open().aliases("plain") == {"prod": 1}
    assert gated(1).stdout == "plain@prod is plain:1\n", "nothing to measure"
    assert call("prompts", "alias", "plain", "prod", 2).exit_code == 0, "without a gate nobody asks"
    for written, number in (("plain:1", 1), ("plain@prod", 1), ("plain@latest", 2)):
        moved = json.loads(call("prompts", "alias", "plain", "prod", written, "--json").stdout)
        assert moved["version"] == number


@pytest.mark.usefixtures("versions")
def test_an_alias_that_moves_while_the_gate_measures_is_left_alone(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load = promotion.load_model

    def slow(*given: Any) -> Any:
        PromptTable.open().alias("plain", "prod", 2)  # somebody else, in the meantime
        return load(*given)

    monkeypatch.setattr(promotion, "load_model", slow)
    ended = call("prompts", "alias", "plain", "prod", 1, "--gate", "gate.yaml", *TINY)
    assert ended.exit_code == 1
    assert "'plain@prod' has been moved by another in the meantime, from none to version 2" in ended.stderr
    assert PromptTable.open().aliases("plain") == {"prod": 2}


@pytest.mark.usefixtures("versions")
def test_what_cannot_be_gated_moves_nothing(call: Any, project: Path) -> None:
    (project / "closed.yaml").write_text((project / "gate.yaml").read_text().replace("dev: 20, ", ""))
    for given, code, said in (
        (("plain", "prod", 3, "--gate", "gate.yaml"), 2, "'plain' has no version 3"),
        (("plain", "latest", 1, "--gate", "gate.yaml"), 2, "'latest' always means the newest version"),
        (("plain", "prod", "two"), 2, "'two' is no version of 'plain': give one such as 2, or 'plain@staging'"),
        (("plain", "prod", "plain"), 2, "'plain' is no version of 'plain'"),
        (("plain", "prod", "other:1"), 2, "'other:1' is no version of 'plain'"),
        (("plain", "prod", "plain@staging"), 2, "'plain' has no alias 'staging'"),
        (("none", "prod", 1, "--gate", "gate.yaml"), 2, "there is no prompt 'none'"),
        (("plain", "prod", 1, "--gate", "closed.yaml"), 1, "task 'gate' has no dev rows to measure on"),
    ):
        ended = call("prompts", "alias", *given, *TINY)
        assert (ended.exit_code, ended.stdout) == (code, ""), given
        assert said in ended.stderr
    assert PromptTable.open().aliases("plain") == {}


@pytest.mark.slow
def test_a_real_backbone_refuses_a_prompt_that_hides_the_review(call: Any, project: Path) -> None:
    with as_file(files("foreword.jobs") / "demo_files") as folder:
        task, prompt = folder / "movie-sentiment.yaml", (folder / "opinion.prompt").read_text()
        (project / "p.prompt").write_text(prompt)
        assert call("prompts", "add", "p.prompt", "--alias", "prod").exit_code == 0
        (project / "p.prompt").write_text(prompt.replace("{{ text }}", "{{ text | truncate(1, true, '') }}"))
        assert call("prompts", "add", "p.prompt").exit_code == 0
        ended = call("prompts", "alias", "movie-opinion", "prod", 2, "--gate", task, "--json")
    document = json.loads(ended.stdout)
    assert ended.exit_code == 3
    assert document["gate"]["difference"]["high"] < -0.05
    assert document["gate"]["old"]["value"] > 0.6
    assert PromptTable.open().aliases("movie-opinion") == {"prod": 1}
