"""`foreword tune`: what it prints and stores, and that a run outlives its process."""

import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from foreword.cli.app import app
from foreword.cli.tune import command_line
from foreword.prompts import Prompt
from foreword.table import PromptTable
from foreword.tasks import Task
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
    entry = PromptTable.open(project / "my.db").find("mine")
    assert entry.origin == {
        "task": "toy", "data": Task.load(Path("toy.yaml")).data_hash, "run": stored.soft.run, "method": "p-tuning",
        "start": "plain", "start_digest": Prompt.load("plain.prompt").digest, "backbone": "tiny",
        "fingerprint": stored.soft.fingerprint,
    }  # fmt: skip
    assert not (project.parent / "home").exists(), "--table takes the place of the user's own table"


def test_warnings_are_told_at_the_end(call: Any) -> None:
    given = ("tune", "toy.yaml", *TINY, "--steps", 3, "--lr", 1e-6, "--json")
    ended = call(*given)
    still, coarse = json.loads(ended.stdout)["warnings"]
    assert re.match(r"the vectors have moved by 0\.0% .* in 3 steps.*--lr 3e-06", still)
    assert re.match(r"dev has 20 rows, which cannot show a difference below \d\d points", coarse)
    assert ended.stderr.splitlines()[-2:] == [f"warning: {still}", f"warning: {coarse}"]


def test_the_folder_tells_how_to_repeat_the_run(call: Any, project: Path) -> None:
    given = ("tune", "toy.yaml", *TINY, "--steps", 2, "--init-text", 'it\'s a "quiet" film')
    assert call(*given, "--out", "run").exit_code == 0
    first = json.loads(text(project / "run" / "run.json"))
    words = shlex.split(first["command"])
    assert words == ["foreword", *map(str, given), "--out", "run"]
    (project / "run").rename(project / "before")
    assert call(*words[1:]).exit_code == 0
    assert json.loads(text(project / "run" / "run.json")) == first
    ends = [checkpoint.read(project / name / "checkpoint.safetensors").encoder["tokens"] for name in ("before", "run")]
    assert ends[0].equal(ends[1])

    more = ("--steps", 3, "--resume")
    assert call(*given, "--out", "run", *more).exit_code == 0
    found = json.loads(call("doctor", "run", "--json").stdout)
    assert found["command"] == first["command"]
    assert shlex.split(found["latest_command"]) == [*words, *map(str, more)]
    assert found["environment"] == first["environment"]
    assert found["latest_environment"] is None
    shown = call("doctor", "run").stdout
    assert f"command      {first['command']}\n" in shown
    assert f"python {platform.python_version()}" in shown


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://me:se/cr@et@host/db", "'postgresql://me:***@host/db'"),
        ("--table=postgresql://me:secret@host:5432/db", "'--table=postgresql://me:***@host:5432/db'"),
        ("postgresql://host/db?user=me&password=secret&x=1", "'postgresql://host/db?user=me&password=***&x=1'"),
        ("https://host/file@v1", "https://host/file@v1"),
        ("hf:owner/name", "hf:owner/name"),
        ("a\udcff", "'a\\udcff'"),
    ],
)
def test_a_command_line_is_kept_without_its_passwords(given: str, kept: str) -> None:
    assert command_line(["toy.yaml", given]) == f"foreword tune toy.yaml {kept}"


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(call: Any, project: Path, tmp_path: Path) -> None:
    """50 kills, half at random times and half at a write: before or after a file is synced or takes its name."""
    given = ["tune", "toy.yaml", *map(str, TINY), "--steps", "100", "--batch", "4"]
    assert call(*given, "--out", "whole", "--name", "whole").exit_code == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums in another order differ in their last bits
    killer = [sys.executable, "-c", KILLER, json.dumps(given), str(KILLS)]
    done = subprocess.run(killer, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr + text(tmp_path / "project" / "log")
    told = json.loads(done.stdout)
    assert len(told["kills"]) == KILLS
    writes = [name for name in told["kills"] if name]
    assert {"checkpoint.safetensors", "curves.jsonl"} <= set(writes)
    assert len(writes) >= KILLS // 3

    whole = checkpoint.read(project / "whole" / "checkpoint.safetensors")
    table = PromptTable.open()
    for name in told["runs"]:
        found = checkpoint.read(project / name / "checkpoint.safetensors")
        for part in ("encoder", "optimizer", "ema", "best"):
            ours, theirs = getattr(found, part), getattr(whole, part)
            assert ours.keys() == theirs.keys()
            assert all(ours[key].numpy().tobytes() == theirs[key].numpy().tobytes() for key in theirs)
        assert [replace(p, seconds=0) for p in found.curve] == [replace(p, seconds=0) for p in whole.curve]
        lines = [json.loads(line) for line in text(project / name / "curves.jsonl").splitlines()]
        assert lines == [asdict(point) for point in found.curve]
        assert not list((project / name).glob(".*.part")), "what a kill left half written is swept away"
        stored, expected = table.get(name), table.get("whole")
        assert stored.soft.to_bytes() == expected.soft.to_bytes()
        assert stored.replace(name="whole", soft=None) == expected.replace(soft=None)


KILLS = 50
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch, transformers, typer
import foreword.evals, foreword.tuning
from foreword.backbone import Backbone
from foreword.cli.app import app
from foreword.cli.tune import command_line
from foreword.table import PromptTable

given, wanted = json.loads(sys.argv[1]), int(sys.argv[2])
rng = random.Random(5)
torch.set_num_threads(1)  # a process with more of them cannot be forked
transformers.logging.disable_progress_bar()
# What every child would make anew, made once.
command = typer.main.get_command(app)
Backbone.load("tiny", "float32")
PromptTable.open("warm.db").list()

def die_at(moment, folder):  # in the child: before or after the n-th sync or rename of a file of the run
    count, sync, rename = 0, os.fsync, os.replace
    def tick(name):
        nonlocal count
        count += 1
        if count == moment:
            Path("died").write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)
    def fsync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.parent.name == folder and path.suffix == ".part":
            tick(path.name[1:].rsplit(".", 2)[0])
        sync(handle)
    def replace(old, new):
        ours = Path(new).parent.name == folder
        if ours:
            tick(Path(new).name)
        rename(old, new)
        if ours:
            tick(Path(new).name)
    os.fsync, os.replace = fsync, replace

def live(name, moment):
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    if moment:
        die_at(moment, name)
    resume = ["--resume"] if Path(name, "checkpoint.safetensors").exists() else []
    command([*given, "--out", name, "--name", name, *resume], prog_name="foreword")

kills, runs, whole = [], [], None
unfinished = True
while len(kills) < wanted or unfinished:
    name = f"cut{len(runs)}"
    curve = Path(name, "curves.jsonl")
    points = 3 - (curve.read_text().count("\\n") if curve.exists() else 0)  # still to come
    # The first run is left alone, to know how long one takes; one that has only its end to come, now and then.
    alone = whole is None or len(kills) == wanted or (points == 0 and rng.random() < 0.5)
    at_a_write = not alone and rng.random() < 0.5
    # Three to a file, run.json, then two at each point; two to the progress, which is not synced, before and after.
    moment = rng.randint(1, 5 + 10 * points) if at_a_write else 0
    Path("died").unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        live(name, moment)
    until = began + (60 if alone or at_a_write else rng.uniform(0, whole * (1 + points) / 4))
    ended = 0
    while not ended and time.monotonic() < until:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        ended, status = os.waitpid(child, 0)
    unfinished = os.WIFSIGNALED(status)
    if unfinished:
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills.append(Path("died").read_text() if Path("died").exists() else "")
    else:
        assert status == 0, name
        runs.append(name)
        whole = whole or time.monotonic() - began  # the first one is left alone, to know how long one takes
print(json.dumps({"kills": kills, "runs": runs}))
"""


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
    monkeypatch.setattr("foreword.tuning.plan.halving.RUNGS", (40,))
    monkeypatch.setattr("foreword.tuning.plan.TRIALS", 4)
    arguments = ["tune", "toy.yaml", "--backbone", "tiny", "--out", "run", "--batch", "4", "--tokens", "3", "--sweep"]
    first = call(*arguments, "--budget", "48rows", "--json")
    assert first.exit_code == 0, first.stderr
    assert "4 settings learn side by side" in first.stderr
    assert "Within 48rows: 12 steps of 4 rows" in first.stderr
    assert first.stderr.count("drops out") >= 3
    tried = json.loads(Path("run/sweep.json").read_text())
    assert {trial["steps"] for trial in tried} == {12}, "no longer than the run to come"
    document = json.loads(first.stdout)
    assert (document["method"], document["tokens"]) == (tried[0]["method"], 3)
    again = call(*arguments, "--budget", "48rows", "--resume", "--json")
    assert json.loads(again.stdout)["prompt"] == document["prompt"]
    other = call(*arguments, "--budget", "48rows", "--resume", "--seed", "3")
    assert (other.exit_code, "other settings (seed 0, now 3)" in other.stderr) == (1, True)
    longer = call("tune", "toy.yaml", "--backbone", "tiny", "--out", "run", "--steps", "20", "--resume", "--json")
    assert (longer.exit_code, json.loads(longer.stdout)["steps"] > 12) == (0, True), "beyond what was planned"
    both = call("tune", "toy.yaml", "--budget", "5m", "--steps", "9")
    assert (both.exit_code, "give it or --steps" in both.stderr) == (2, True)


def test_a_sweep_never_touches_a_run_that_is_there(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreword.tuning.plan.halving.RUNGS", (1,))
    monkeypatch.setattr("foreword.tuning.plan.TRIALS", 2)
    arguments = ["tune", "toy.yaml", "--backbone", "tiny", "--out", "run", "--batch", "4", "--steps", "2", "--sweep"]
    assert call(*arguments).exit_code == 0
    before = Path("run/sweep.json").read_bytes()
    again = call(*arguments, "--seed", "5")
    assert (again.exit_code, "holds a run already" in again.stderr) == (1, True)
    assert Path("run/sweep.json").read_bytes() == before
    longer = call(*[*arguments[:-2], "4", "--sweep"], "--resume", "--json")
    assert json.loads(longer.stdout)["steps"] == 4
    Path("run/checkpoint.safetensors").unlink()  # as if killed before the first one
    assert call(*arguments, "--resume").exit_code == 0


def test_no_password_is_kept_in_a_command() -> None:
    kept = command_line(["t.yaml", "--table", "postgresql://u:pa ss@h/db", "--x", "a?Password=b c&d=e"])
    assert "pa ss" not in kept
    assert "b c" not in kept
    assert "u:***@h/db" in kept
