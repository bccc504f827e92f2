"""Jobs as a program calls them: the command line's work without its words, told to a listener."""

import json
from pathlib import Path
from typing import Any

import pytest

import foreword as fw
from foreword import jobs
from foreword.errors import ForewordError, UsageError
from foreword.listen import Progress
from foreword.prompts import Prompt
from foreword.table import PromptTable
from heard import Heard

CHAIN = """inputs: [text]
steps:
  - {call: shorten, as: short, with: {text: "{{ text }}"}}
  - {call: plain, as: verdict, with: {text: "{{ short }}"}}
output: verdict
"""
CODE = '''"""Answers of code."""


def longest(text: str) -> str:
    """Good where a word is long."""
    return "good" if max(map(len, text.split())) > 6 else "bad"


def broken(text: str) -> str:
    raise RuntimeError("no luck")
'''
TINY: dict[str, Any] = {"backbone": "tiny", "dtype": "float32"}


@pytest.fixture
def stored(project: Path) -> PromptTable:
    """A chain, a file of code, and a table that holds what the chain calls."""
    (project / "two-steps.yaml").write_text(CHAIN)
    (project / "code.py").write_text(CODE)
    table = PromptTable.open()
    table.put(Prompt.load(project / "plain.prompt"))
    table.put(Prompt("shorten", "Shorten: {{ text }}\nShort:"))
    return table


@pytest.mark.usefixtures("stored")
def test_a_chain_a_function_and_a_registered_strategy_are_compared_by_name(project: Path) -> None:
    heard = Heard()
    found = jobs.compare(
        Path("toy.yaml"), ["plain", "two-steps.yaml", "code.py:longest", "majority"], **TINY, out=Path("out"),
        listener=heard,
    )  # fmt: skip
    kinds = {s.name: s.kind for s in found.result.strategies if s.kind != "baseline"}
    assert kinds == {"plain": "hard", "two-steps": "flow", "longest": "flow"}
    document = json.loads((project / "out" / "result.json").read_text())
    assert {s["name"]: s["calls_per_request"] for s in document["strategies"]}["two-steps"] == 2
    assert found.page.stat().st_size > 10_000
    assert "Task toy: 40 rows to train on, 20 dev, 20 test." in heard.said


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ("code.py:shortest", UsageError, "'code.py' has no function 'shortest'; it has longest, broken"),
        ("gone.py:longest", ForewordError, "no Python file 'gone.py'"),
        ("gone.yaml", ForewordError, "no chain file 'gone.yaml'"),
        ("tfidff", UsageError, "no prompt 'tfidff'"),
    ],
)
def test_what_is_not_there_is_told_before_a_model_is_loaded(ref: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jobs.compare(Path("toy.yaml"), ["plain", ref], backbone="/nowhere/at/all")


@pytest.mark.usefixtures("stored")
def test_a_file_of_code_that_fails_is_named(project: Path) -> None:
    (project / "wrong.py").write_text("1 / 0")
    with pytest.raises(ForewordError, match=r"'wrong.py' raised ZeroDivisionError: division by zero"):
        jobs.compare(Path("toy.yaml"), ["wrong.py:x"], **TINY)
    (project / "ends.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ForewordError, match=r"'ends.py' raised SystemExit: 0"):
        jobs.compare(Path("toy.yaml"), ["ends.py:x"], **TINY)
    with pytest.raises(ForewordError, match="'broken' raised RuntimeError on row 0: no luck"):
        jobs.compare(Path("toy.yaml"), ["code.py:broken"], **TINY)


@pytest.mark.usefixtures("project")
def test_a_file_of_code_may_have_dataclasses_and_neighbours() -> None:
    Path("neighbour.py").write_text("GOOD = 'good'\n")
    Path("rich.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport neighbour\n\n"
        "@dataclass\nclass Rule:\n    word: str\n\n"
        "def answer(text: str) -> str:\n    return neighbour.GOOD if Rule(text).word else 'bad'\n"
    )
    function = jobs.find_runnable("rich.py:answer", PromptTable.open())
    assert function.batch([{"text": "film"}])[0].text == "good"  # type: ignore[union-attr]


def test_a_stored_prompt_goes_before_a_registered_strategy_of_its_name(stored: PromptTable) -> None:
    stored.put(Prompt.load("plain.prompt").replace(name="majority"))
    found = jobs.find_strategy("majority", stored)
    assert isinstance(found, Prompt)
    assert jobs.find_strategy("tfidf", stored).name == "tfidf"
    with pytest.raises(UsageError, match="'tfidf' learns from a task's rows"):
        jobs.find_runnable("tfidf", stored)


def test_a_strategy_of_another_package_is_found_by_its_name(
    stored: PromptTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installed package says it: an entry point, and a module that is imported when it is asked for."""
    (tmp_path / "others.py").write_text(
        "from foreword.evals.baselines import Classifier\n"
        "from foreword.flows import Cost\n"
        "def last(model, task):\n"
        "    answers = {row.target for row in task.train}\n"
        "    return Classifier('last', task.inputs, Cost(0, len(task.train)), 'the last answer by alphabet',\n"
        "                      lambda texts: [max(answers)] * len(texts))\n"
        "def fails(model, task):\n"
        "    raise RuntimeError(f'{len(task.test)} test rows')\n"
    )
    folder = tmp_path / "others-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[foreword.strategies]\nlast = others:last\nbroken = others:gone\nfails = others:fails\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from foreword.evals import STRATEGIES

    monkeypatch.delitem(vars(STRATEGIES), "_points", raising=False)
    try:
        found = jobs.compare(Path("toy.yaml"), ["plain", "last"], **TINY)
        assert set(found.result.strategy("last").predictions) == {"good"}
        with pytest.raises(ForewordError, match="strategy 'fails' cannot be made: RuntimeError: 0 test rows"):
            jobs.compare(Path("toy.yaml"), ["plain", "fails"], **TINY)
        with pytest.raises(ForewordError, match=r"'broken' of the package 'others' cannot be loaded"):
            jobs.find_strategy("broken", stored)
    finally:
        vars(STRATEGIES).pop("_points", None)


@pytest.mark.usefixtures("project")
def test_a_program_plans_searches_and_tunes_as_the_command_line_does() -> None:
    heard = Heard()
    settings = {"tokens": 3}
    [tuned] = jobs.tune([Path("toy.yaml")], **TINY, settings=settings, budget="160rows", sweep=True, listener=heard)
    assert tuned.ref.startswith("toy-")
    assert tuned.run.steps <= 160 // tuned.run.options.batch
    assert any(said.startswith("Within 160rows: ") for said in heard.said)
    assert any("settings learn side by side" in said for said in heard.said)
    assert heard.steps
    assert all(isinstance(step, Progress) for step in heard.steps)
    assert heard.steps[-1].seconds_left == pytest.approx(0, abs=1)
    document = jobs.to_json([tuned])
    assert document.keys() >= {"prompt", "method", "tokens", "trained_parameters", "steps", "seconds", "dev", "test"}
    assert PromptTable.open().get(tuned.ref).soft is not None


@pytest.mark.usefixtures("project")
def test_the_public_tune_takes_a_budget_and_a_sweep(tmp_path: Path) -> None:
    model, task = fw.Backbone.load("tiny", "float32"), fw.Task.load("toy.yaml")
    start = fw.Prompt.load("plain.prompt")
    heard = Heard()
    run = fw.tune(model, task, start, tokens=3, budget="160rows", sweep=True, folder=tmp_path / "run", listener=heard)
    assert run.steps * run.options.batch <= 160
    assert json.loads((tmp_path / "run" / "sweep.json").read_text())[0]["dev"] is not None
    with pytest.raises(UsageError, match="a budget plans the steps; give it or steps"):
        fw.tune(model, task, start, budget="160rows", steps=3, folder=tmp_path / "other")
    with pytest.raises(UsageError, match="resume needs the folder of the run"):
        fw.tune(model, task, start, budget="160rows", resume=True)


@pytest.mark.usefixtures("stored")
def test_a_function_and_a_chain_run_on_one_row(call: Any) -> None:
    ended = call("run", "code.py:longest", "-i", "text=a generous film")
    assert json.loads(ended.stdout) == {
        "text": "good",
        "value": "good",
        "usage": {"prompt_tokens": 0, "completion_tokens": 0},
    }
    ended = call("run", "code.py:longest", "-i", "txt=x")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "'longest' needs the input 'text'" in ended.stderr
    ended = call("run", "code.py:longest", "-i", "text=x", "-i", "year=1")
    assert "function 'longest' has no input 'year'" in ended.stderr
    chained = json.loads(call("run", "two-steps.yaml", "-i", "text=film", "-b", "tiny", "--dtype", "float32").stdout)
    assert [step["name"] for step in chained["steps"]] == ["short", "verdict"]


@pytest.mark.usefixtures("stored")
def test_a_prompt_and_a_function_are_held_against_each_other(call: Any) -> None:
    given = ("prompts", "diff", "plain", "code.py:longest", "-b", "tiny", "--dtype", "float32")
    ended = call(*given, "--task", "toy.yaml", "--json")
    assert ended.exit_code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert (document["a"], document["b"], document["answers"]["rows"]) == ("plain", "code.py:longest", 20)
    assert document["answers"]["b"]["value"] == pytest.approx(
        document["answers"]["a"]["value"] + document["answers"]["difference"]["value"]
    )
    ended = call(*given)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "the answers are compared: give --task" in ended.stderr
