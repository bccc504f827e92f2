"""`foreword tune`: what it prints and stores, and that a run outlives its process."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from foreword.cli.app import app
from foreword.prompts import Prompt
from foreword.table import PromptTable
from foreword.tuning import TuneOptions, checkpoint
from foreword.tuning.methods import METHODS

Start = Callable[..., "subprocess.Popen[str]"]
TINY = ("--backbone", "tiny", "--dtype", "float32", "--tokens", 4)


def test_the_document_has_the_stated_shape_and_the_prompt_is_stored(call: Any, project: Path) -> None:
    given = ("--start", "plain.prompt", "--method", "p-tuning", "--steps", 3, "--name", "mine", "--alias", "prod")
    ended = call("tune", "toy.yaml", *TINY, *given, "--out", "run", "--table", "my.db", "--json")
    assert ended.exit_code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert list(document) == [
        "prompt", "method", "tokens", "trained_parameters", "steps", "seconds", "dev", "test", "run", "warnings",
    ]  # fmt: skip
    assert (document["prompt"], document["method"], document["run"]) == ("mine:1", "p-tuning", "run")
    assert (document["tokens"], document["steps"]) == (4, 3)
    assert document["trained_parameters"] == 4 * 32 + 3 * (32 * 32 + 32), "an embedding and three square layers"
    for split in ("dev", "test"):
        accuracy = document[split]["accuracy"]
        assert list(document[split]) == ["accuracy"]
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert round(20 * accuracy["value"], 9) == round(20 * accuracy["value"]), "of 20 rows"
    stored = PromptTable.open(project / "my.db").get("mine@prod")
    assert stored.body == "{{ virtual(4) }}" + Prompt.load("plain.prompt").body
    assert stored.soft is not None
    assert (
        stored.soft.embeddings.tobytes()
        == checkpoint.read(Path("run/checkpoint.safetensors")).best["embeddings"].numpy().tobytes()
    )
    assert not (project.parent / "home").exists(), "--table takes the place of the user's own table"


def test_warnings_are_told_at_the_end(call: Any) -> None:
    given = ("tune", "toy.yaml", *TINY, "--steps", 3, "--lr", 1e-6, "--json")
    ended = call(*given)
    still, coarse = json.loads(ended.stdout)["warnings"]
    assert re.match(r"the vectors have moved by 0\.0% .* in 3 steps.*--lr 3e-06", still)
    assert re.match(r"dev has 20 rows, which cannot show a difference below \d\d points", coarse)
    assert ended.stderr.splitlines()[-2:] == [f"warning: {still}", f"warning: {coarse}"]


def test_a_killed_run_goes_on_to_the_same_bits(call: Any, start: Start, project: Path) -> None:
    given = ("tune", "toy.yaml", *TINY, "--steps", 150, "--batch", 8)
    cut = start(*given, "--out", "cut", "--name", "cut")
    wait_for(cut, lambda: '"step": 50' in text(project / "cut" / "curves.jsonl"))
    cut.kill()
    assert cut.communicate()[0] == ""
    assert cut.returncode == -signal.SIGKILL
    state = checkpoint.read(project / "cut" / "checkpoint.safetensors")
    assert state.step < 150
    assert call(*given, "--out", "whole", "--name", "whole").exit_code == 0
    resumed = call(*given, "--out", "cut", "--name", "cut", "--resume")
    assert resumed.stdout == "cut:1\n", resumed.stderr
    table = PromptTable.open()
    whole, cut_ = (table.get(name).soft for name in ("whole", "cut"))
    assert whole is not None
    assert cut_ is not None
    assert whole.embeddings.tobytes() == cut_.embeddings.tobytes()
    ends = [checkpoint.read(project / name / "checkpoint.safetensors").encoder["tokens"] for name in ("whole", "cut")]
    assert ends[0].numpy().tobytes() == ends[1].numpy().tobytes()
    assert ends[0].numpy().tobytes() != state.encoder["tokens"].numpy().tobytes(), "it did go on"


def test_ctrl_c_ends_with_one_line_and_keeps_the_run(start: Start, project: Path) -> None:
    run = start("tune", "toy.yaml", *TINY, "--steps", 1_000_000)
    folders = project / "runs"
    wait_for(run, lambda: folders.exists() and any(text(place) for place in folders.glob("*/curves.jsonl")))
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    (folder,) = folders.iterdir()
    place = folder.relative_to(project)
    assert err.splitlines() == [
        "Task toy: 40 rows to train on, 20 dev, 20 test.",
        "Backbone tiny: 0 M frozen weights, float32, 1 CPU threads.",
        f"The run goes to {place}: stop it when you like; --resume --out {place} goes on.",
        "foreword: stopped",
    ]
    assert checkpoint.read(folder / "checkpoint.safetensors").step < 1_000_000


def test_several_tasks_are_tuned_together_and_another_is_added(call: Any, project: Path) -> None:
    for name in ("more", "late"):
        (project / f"{name}.yaml").write_text((project / "toy.yaml").read_text().replace("toy", name))
    settings = (*TINY, "--method", "multitask", "--steps", 3)
    given = ("tune", "toy.yaml", "more.yaml", "--start", "plain.prompt", "--start", "free.prompt", *settings)
    ended = call(*given, "--out", "run", "--alias", "prod", "--json")
    assert ended.exit_code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert list(document) == ["tasks", "method", "tokens", "trained_parameters", "steps", "seconds", "run", "warnings"]
    assert [(t["task"], t["prompt"]) for t in document["tasks"]] == [
        ("toy", "toy-multitask:1"), ("more", "more-multitask:1"),
    ]  # fmt: skip
    assert all(t[split].keys() == {"accuracy"} for t in document["tasks"] for split in ("dev", "test"))
    assert document["trained_parameters"] == 4 * 32 + 2 * (4 + 32)
    assert "more: test accuracy: " in ended.stderr
    table = PromptTable.open()
    before = [table.get(f"{name}@prod") for name in ("toy-multitask", "more-multitask")]
    assert [prompt.body for prompt in before] == [
        "{{ virtual(4) }}" + Prompt.load(f"{name}.prompt").body for name in ("plain", "free")
    ]
    examined = call("doctor", "run").stdout
    assert re.search(r"^task +toy, more$", examined, re.MULTILINE)

    added = call("tune", "late.yaml", *settings, "--add-to", "run", "--out", "second", "--name", "latest-one")
    assert added.stdout == "latest-one:1\n", added.stderr
    after = [table.get(f"{name}@prod") for name in ("toy-multitask", "more-multitask")]
    assert [prompt.digest for prompt in after] == [prompt.digest for prompt in before]
    assert len(table.list("toy-multitask")) == 1
    resumed = call(*given, "--out", "run", "--resume")
    assert resumed.stdout.splitlines() == ["toy-multitask:1", "more-multitask:1"], "the same prompts, no new versions"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], r"method 'prompt-tuning' tunes one task at a time; for several choose --method multitask or p-tuning-mul"),
        (["--method", "multitask", "--name", "both"], r"--name names one prompt"),
        (["--method", "multitask", "--start", "plain.prompt"], r"--start is given 1 times for 2 tasks"),
        (["--method", "multitask", "--budget", "5m"], r"--budget and --sweep are for one task alone"),
        (["--method", "multitask", "--sweep"], r"--budget and --sweep are for one task alone"),
    ],
)
def test_what_several_tasks_cannot_have_is_told_before_a_model_is_loaded(
    call: Any, given: list[str], said: str
) -> None:
    ended = call("tune", "toy.yaml", "toy.yaml", "--backbone", "no-such-backbone", *given)
    assert ended.exit_code == 2
    assert re.match(f"foreword: {said}", ended.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--method", "lora"], r"method 'lora': choose one of prompt-tuning, residual-prompt-tuning, p-tuning"),
        (["--steps", "0"], r"steps must be a whole number of at least 1, not 0"),
        (["--resume"], r"--resume needs --out"),
        (["--alias", "latest"], r"'latest' always means the newest"),
        (["--name", "My prompt"], r"prompt name 'My prompt'"),
        (["--start", "nothing"], r"there is no prompt 'nothing'"),
    ],
)
def test_what_is_wrong_with_the_call_is_told_before_a_model_is_loaded(call: Any, given: list[str], said: str) -> None:
    ended = call("tune", "toy.yaml", "--backbone", "no-such-backbone", *given)
    assert ended.exit_code in (1, 2)
    assert re.match(f"foreword: {said}", ended.stderr.splitlines()[-1])
    assert not Path("runs").exists()


def test_method_without_a_name_lists_them_all(call: Any) -> None:
    for arguments in (["tune", "--method"], ["tune", "toy.yaml", "--method", "--steps", "3"]):
        lines = call(*arguments).stdout.splitlines()
        assert [line.split()[0] for line in lines[: len(METHODS)]] == list(METHODS)
        assert "P · D numbers; choose it when you begin" in lines[0]


def test_the_defaults_that_help_states_are_the_real_ones() -> None:
    tune = typer.main.get_command(app).commands["tune"]  # type: ignore[attr-defined]
    stated = {
        p.name: m[1] for p in tune.params if p.default is None and (m := re.search(r"\[default: (.*)\]$", p.help))
    }
    real = {field.name: field.default for field in fields(TuneOptions) if field.default is not None}
    checked = {name: text for name, text in stated.items() if name in real}
    assert checked == {name: str(real[name]) for name in ("method", "tokens", "steps", "batch", "seed")}
    for name in ("lr", "init_text"):
        assert name in stated
    assert TuneOptions().init_text is TuneOptions().learning_rate is None


def wait_for(process: "subprocess.Popen[str]", happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_sweep_and_a_budget_choose_settings_that_a_resumed_run_keeps(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreword.tuning.sweep.RUNGS", (1, 2))
    monkeypatch.setattr("foreword.cli.settle.TRIALS", 4)
    arguments = ["tune", "toy.yaml", "--backbone", "tiny", "--out", "run", "--batch", "4", "--tokens", "3", "--sweep"]
    first = call(*arguments, "--budget", "48rows", "--json")
    assert first.exit_code == 0, first.stderr
    assert "4 settings learn side by side" in first.stderr
    assert "Within 48rows: 12 steps of 4 rows" in first.stderr
    assert first.stderr.count("drops out") >= 3
    tried = json.loads(Path("run/sweep.json").read_text())
    document = json.loads(first.stdout)
    assert (document["method"], document["tokens"]) == (tried[0]["method"], 3)
    again = call(*arguments, "--budget", "48rows", "--resume", "--json")
    assert json.loads(again.stdout)["prompt"] == document["prompt"]
    both = call("tune", "toy.yaml", "--budget", "5m", "--steps", "9")
    assert (both.exit_code, "give it or --steps" in both.stderr) == (2, True)
