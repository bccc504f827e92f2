"""`foreword doctor RUN`: a run as its folder has it; a folder that is none, or is damaged, in one line."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foreword.listen import Progress
from foreword.tuning import TuneOptions, checkpoint

TUNE = ("tune", "toy.yaml", "--backbone", "tiny", "--dtype", "float32", "--tokens", 4, "--out", "run")


MADE: dict[str, bytes] = {}


@pytest.fixture
def run(call: Any, project: Path) -> Path:
    """A finished run, tuned once."""
    folder = project / "run"
    if not MADE:
        assert call(*TUNE, "--steps", 60, "--batch", 4).exit_code == 0
        MADE.update(contents(folder))
    folder.mkdir(exist_ok=True)
    for name, data in MADE.items():
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_the_run_is_and_what_went_wrong_with_it(call: Any, run: Path) -> None:
    before = contents(run)
    document = json.loads(call("doctor", "run", "--json").stdout)
    assert contents(run) == before, "nothing is written"
    assert [document[key] for key in ("run", "task", "method", "backbone", "dtype", "steps")] == [
        "run", "toy", "prompt-tuning", "tiny", "float32", 60,
    ]  # fmt: skip
    assert document["settings"]["batch"] == 4
    assert document["curve"] == [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    assert document["best_step"] == checkpoint.read(run / "checkpoint.safetensors").best_step
    assert document["seconds"] == round(document["curve"][-1]["seconds"], 2)
    told = json.loads(call(*TUNE, "--steps", 60, "--batch", 4, "--resume", "--json").stdout)
    assert document["warnings"] == told["warnings"] != []

    shown = call("doctor", "run")
    assert shown.exit_code == 0
    assert "60 of 60 done" in shown.stdout
    assert "learning_rate 0.02" in shown.stdout
    assert re.search(r"^state +finished at step 60 of 60$", shown.stdout, re.MULTILINE)
    assert document["progress"].items() >= {"state": "finished", "step": 60, "pid": os.getpid(), "alive": True}.items()
    assert [line.split()[-8] for line in shown.stdout.splitlines() if re.match(r"[ *]+\d", line)] == ["0", "50", "60"]
    assert all(f"warning: {warning}\n" in shown.stdout for warning in document["warnings"])


def test_a_run_that_goes_on_meanwhile(call: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking neither waits for the run's lock nor disturbs it."""
    from foreword.cli import console

    seen = []

    def look(_display: object, _name: str, progress: Progress) -> None:
        if progress.step in (1, 55):
            seen.append(json.loads(call("doctor", "run", "--json").stdout))

    monkeypatch.setattr(console.Display, "step", look)
    assert call(*TUNE, "--steps", 60, "--batch", 4).exit_code == 0
    assert [(found["steps"], len(found["curve"])) for found in seen] == [(0, 1), (50, 2)]
    assert (project / "run" / "curves.jsonl").read_text().count("\n") == 3


def test_what_a_run_does_and_how_it_ended(call: Any, run: Path) -> None:
    def state(**changes: Any) -> str:
        document = {**json.loads(MADE["progress.json"]), **changes}
        (run / "progress.json").write_text(json.dumps(document))
        return re.findall(r"^state +(.*)$", call("doctor", "run").stdout, re.MULTILINE)[0]

    here = {"pid": os.getpid(), "step": 7, "loss": 0.25, "learning_rate": 0.01, "rows_per_second": 9, "seconds_left": 5}
    told = state(state="running", **here)
    assert told.startswith(
        f"running, step 7 of 60, loss 0.250, learning rate 0.01, 9 rows/s, 5 s left, process {os.getpid()} on "
    )
    assert state(state="failed", reason="the disk is full").endswith("failed at step 60 of 60: the disk is full")
    child = subprocess.Popen(["true"])
    child.wait()
    assert state(state="measuring", pid=child.pid) == (
        f"died at step 60 of 60: process {child.pid} is gone; --resume goes on"
    )
    (run / "progress.json").unlink()
    assert "state" not in call("doctor", "run").stdout.split()
    assert json.loads(call("doctor", "run", "--json").stdout)["progress"] is None


def test_a_curve_that_a_kill_left_behind_its_checkpoint_is_made_up_for(call: Any, run: Path) -> None:
    lines = (run / "curves.jsonl").read_text().splitlines(keepends=True)
    (run / "curves.jsonl").write_text("".join(lines[:-1]))
    assert len(json.loads(call("doctor", "run", "--json").stdout)["curve"]) == len(lines)


def test_a_run_of_an_older_version(call: Any, run: Path) -> None:
    old = [
        {key: point[key] for key in ("step", "rows", "loss", "dev", "seconds")}
        for point in map(json.loads, (run / "curves.jsonl").read_text().splitlines())
    ]
    (run / "curves.jsonl").write_text("".join(json.dumps(point) + "\n" for point in old))
    document = json.loads(call("doctor", "run", "--json").stdout)
    assert [point["loss"] for point in document["curve"]] == [point["loss"] for point in old]
    assert {point["norm_ratio"] for point in document["curve"]} == {None}
    assert "–" in call("doctor", "run").stdout


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(data) and None


def edit(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        assert old in (run / name).read_bytes()
        (run / name).write_bytes((run / name).read_bytes().replace(old, new, 1))

    return change


def as_folder(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, r"there is no folder 'run'"),
        (lambda run: (run / "run.json").unlink(), r"'run' is no run's folder: it has no 'run\.json'"),
        (lambda run: (run / "curves.jsonl").unlink(), r"'run/curves\.jsonl' is missing"),
        (lambda run: (run / "checkpoint.safetensors").unlink(), r"'run/checkpoint\.safetensors' is missing"),
        (write("run.json", b"{"), r"'run/run\.json' is damaged: Invalid JSON"),
        (write("run.json", b"\xff"), r"'run/run\.json' is damaged: Invalid JSON"),
        (write("run.json", b"{}"), r"'run/run\.json' is damaged: 'id' is required"),
        (edit("run.json", b'"batch": 4', b'"batch": "x"'), r"'run/run\.json' is damaged, 'options\.batch': must be"),
        (edit("run.json", b'"prompt-tuning"', b'"xyz"'), r"'run/run\.json' holds what .* method 'xyz': choose one of"),
        (edit("curves.jsonl", b'"step": 50', b'"step": '), r"'run/curves\.jsonl', line 2, is damaged: Invalid JSON"),
        (write("checkpoint.safetensors", b"\0" * 50), r"'run/checkpoint\.safetensors' is no checkpoint of a run"),
        (edit("checkpoint.safetensors", b'\\"step\\": 50', b'\\"stop\\": 50'), r"'run/checkpoint\.safetensors' is no"),
        (write("progress.json", b"{}"), r"'run/progress\.json' is damaged: 'state' is required"),
        (as_folder("run.json"), r"cannot read 'run/run\.json': Is a directory"),
        (as_folder("curves.jsonl"), r"cannot read 'run/curves\.jsonl': Is a directory"),
        (as_folder("checkpoint.safetensors"), r"no checkpoint 'run/checkpoint\.safetensors'"),
    ],
)
def test_one_line_names_what_is_wrong(call: Any, run: Path, change: Callable[[Path], None], said: str) -> None:
    change(run)
    ended = call("doctor", "run")
    assert (ended.exit_code, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert re.match(f"foreword: {said}", line)


def test_a_file_is_no_run(call: Any) -> None:
    ended = call("doctor", "toy.yaml", "--json")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("foreword: there is no folder 'toy.yaml'")


def test_settings_that_were_not_there_yet_have_their_defaults(call: Any, run: Path) -> None:
    file = json.loads((run / "run.json").read_text())
    del file["options"]["patience"]
    (run / "run.json").write_text(json.dumps(file))
    found = json.loads(call("doctor", "run", "--json").stdout)["settings"]["patience"]
    assert found == TuneOptions().patience
