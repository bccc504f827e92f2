"""A run's progress, as another process sees it: every state, a killed process, a hostile file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from foreword.errors import ForewordError, UsageError
from foreword.listen import Progress
from foreword.tuning import loop, loss, progress, tune
from foreword.tuning.progress import ProgressFile, RunProgress, read_progress
from tiny import backbone
from tuning.test_loop import START, Hears, _StopError, run, stop_at, task

AT = Progress(3, 9, 0.5, None, 0, 0.02, 11.0, 4.5)


def read(folder: Path) -> RunProgress:
    found = read_progress(folder)
    assert found is not None
    return found


def test_each_step_is_there_for_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    seen: list[RunProgress] = []
    heard: list[Progress] = []
    measured = loop.measure_dev

    def measuring(*given: Any) -> float:
        seen.append(read(tmp_path / "run"))
        return measured(*given)

    def step(at: Progress) -> None:
        seen.append(read(tmp_path / "run"))
        heard.append(at)

    monkeypatch.setattr(loop, "measure_dev", measuring)
    run(tmp_path / "run", steps=4, eval_every=2, listener=Hears(step))
    assert [(one.state, one.step) for one in seen] == [
        ("measuring", 0), ("running", 1), ("measuring", 2), ("running", 2), ("running", 3), ("measuring", 4),
        ("running", 4),
    ]  # fmt: skip
    end = read(tmp_path / "run")
    last = heard[-1]
    assert (end.state, end.reason, end.step, end.steps, end.pid) == ("finished", None, 4, 4, os.getpid())
    assert (end.loss, end.dev, end.dev_step, end.learning_rate) == (last.loss, last.dev, 4, last.learning_rate)
    assert end.rows_per_second == last.rows_per_second
    assert end.seconds_left == last.seconds_left == 0
    assert not end.under_way


def test_a_second_passes_between_two_writes_unless_the_state_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    file = ProgressFile(tmp_path)
    file.tell("running")
    for now[0], at in ((0.4, 1), (0.9, 1), (1.1, 3)):
        file.tell("running", AT)
        assert read(tmp_path).step == (3 if at == 3 else 0)
    file.tell("measuring")
    assert (read(tmp_path).state, read(tmp_path).loss) == ("measuring", 0.5)


def test_how_a_run_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(_StopError):
        run(tmp_path / "broken", listener=stop_at(3))
    assert (read(tmp_path / "broken").state, read(tmp_path / "broken").reason) == ("failed", "_StopError")
    run(tmp_path / "broken", resume=True)
    assert (read(tmp_path / "broken").state, read(tmp_path / "broken").step) == ("finished", 12)
    run(tmp_path / "broken", resume=True)
    assert read(tmp_path / "broken").step == 12, "over, and looked at again"

    def press(at: Progress) -> None:
        if at.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "pressed", listener=Hears(press))
    assert (read(tmp_path / "pressed").state, read(tmp_path / "pressed").step) == ("interrupted", 6)
    with pytest.raises(UsageError, match="holds 2 steps"):
        tune(backbone(), task(), START, folder=tmp_path / "short", budget="8rows")
    assert read(tmp_path / "short").state == "failed"
    assert "holds 2 steps of 4 rows" in str(read(tmp_path / "short").reason)
    before = read(tmp_path / "pressed")
    with pytest.raises(ForewordError, match="holds a run already"):
        run(tmp_path / "pressed")
    assert read(tmp_path / "pressed") == before, "who is refused tells nothing"
    monkeypatch.setattr(loss, "mean_loss", lambda *given: given[0].mean() * float("nan"))
    with pytest.raises(ForewordError, match="loss is nan"):
        run(tmp_path / "nan")
    assert "the loss is nan" in str(read(tmp_path / "nan").reason)


@pytest.mark.parametrize("sweep", [False, True])
def test_planning_is_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: bool) -> None:
    monkeypatch.setattr("foreword.tuning.plan.halving.RUNGS", (1,))
    monkeypatch.setattr("foreword.tuning.plan.TRIALS", 2)
    seen: list[str] = []

    class Look(Hears):
        def say(self, text: str, heading: str = "") -> None:  # noqa: ARG002
            seen.append(read(tmp_path / "run").state)

    made = tune(
        backbone(), task(), START, folder=tmp_path / "run", budget="48rows", sweep=sweep, batch=4, tokens=3,
        listener=Look(lambda _: seen.append(read(tmp_path / "run").state)),
    )  # fmt: skip
    assert set(seen[: 1 + 4 * sweep]) == {"planning"}
    assert "planning" not in seen[1 + 4 * sweep :]
    assert (made.options.steps, made.options.tokens) == (12, 3)
    assert (tmp_path / "run" / "sweep.json").exists() == sweep
    again = tune(
        backbone(), task(), START, folder=tmp_path / "run", budget="48rows", sweep=sweep, batch=4, tokens=3, resume=True
    )
    assert again.prompt.digest == made.prompt.digest
    with pytest.raises(UsageError, match="a budget plans the steps; give it or steps"):
        tune(backbone(), task(), START, budget="5m", steps=3)


CHILD = """
import sys, time
from pathlib import Path
from foreword.tuning.progress import ProgressFile
ProgressFile(Path(sys.argv[1])).tell("running")
print("told", flush=True)
time.sleep(60)
"""


def test_a_process_that_was_killed_is_told_from_one_that_lives(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "told\n"
        assert (read(tmp_path).alive, read(tmp_path).died) == (True, False)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert (read(tmp_path).alive, read(tmp_path).died) == (False, True), "dead, though nobody has asked after it"
    finally:
        child.kill()
        child.communicate()
    assert (read(tmp_path).alive, read(tmp_path).died) == (False, True)
    document = json.loads((tmp_path / "progress.json").read_text())
    for change, alive in (({"pid": os.getpid()}, False), ({"host": "elsewhere"}, None)):
        (tmp_path / "progress.json").write_text(json.dumps({**document, **change}))
        assert read(tmp_path).alive is alive, "another process has its number now, or nobody here can know"


def test_a_full_disk_does_not_end_a_run_for_its_progress(tmp_path: Path) -> None:
    (tmp_path / "progress.json").mkdir()
    ProgressFile(tmp_path).tell("running", AT)
    assert not list(tmp_path.glob(".*.part"))


def test_a_run_of_an_older_version_says_nothing(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None


GOOD = {"state": "running", "updated": 1.0, "host": "here", "pid": 7}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is damaged: Invalid JSON"),
        (b"[" * 60_000, "is damaged: Invalid JSON"),
        (b"\xff\xfe", "is damaged: Invalid JSON"),
        (b"[]", "is damaged"),
        (b"{}", "'state' is required"),
        (b" " * 70_000, "more than 65,536 bytes"),
        (json.dumps({**GOOD, "pid": 10**30}).encode(), "'pid'"),
        (json.dumps({**GOOD, "pid": 0}).encode(), "'pid'"),
        (json.dumps({**GOOD, "pid": -1}).encode(), "'pid'"),
        (json.dumps({**GOOD, "state": "gone"}).encode(), "'state'"),
        (json.dumps({**GOOD, "step": -3}).encode(), "'step'"),
        (json.dumps({**GOOD, "loss": "x"}).encode(), "'loss'"),
    ],
)
def test_a_hostile_file_is_one_clear_error(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "progress.json").write_bytes(data)
    with pytest.raises(ForewordError) as error:
        read_progress(tmp_path)
    assert said in str(error.value)
    assert "progress.json" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_or_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "progress.json")
    with pytest.raises(ForewordError, match="it is no file"):
        read_progress(tmp_path)


def test_a_reason_cannot_command_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(json.dumps({**GOOD, "reason": "a\x1b[2Jb\nc"}))
    assert read(tmp_path).reason == "a [2Jb c"
