"""Where a run stands, kept in its folder, so that another process can show it. Knows one file; knows no training."""

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from foreword.errors import ForewordError
from foreword.files import write_atomic
from foreword.forms import validation_message
from foreword.listen import Progress

FILE = "progress.json"
EVERY = 1.0
"""Seconds between two writes at least; a new state is written at once."""
MOST_BYTES = 65_536
"""What is read of the file at most: one of ours has some 500 bytes."""

MOST_STEPS = 10**12
"""More are no run's."""

State = Literal["planning", "running", "measuring", "finished", "interrupted", "failed"]
UNDER_WAY = ("planning", "running", "measuring")


class RunProgress(BaseModel):
    """`progress.json`."""

    model_config = ConfigDict(allow_inf_nan=False)
    state: State
    reason: str | None = None
    """Why it failed, in a line."""
    step: int = Field(0, ge=0, le=MOST_STEPS)
    """Optimizer steps done."""
    steps: int | None = Field(None, ge=0, le=MOST_STEPS)
    """In all; None before the first step, as are all that follow."""
    loss: float | None = None
    """Of the last step, nats; None too where it is not finite."""
    dev: float | None = None
    """The task's metric at the last measurement on dev."""
    dev_step: int | None = Field(None, ge=0, le=MOST_STEPS)
    learning_rate: float | None = None
    rows_per_second: float | None = None
    seconds_left: float | None = None
    updated: float
    """When this was written, in seconds since 1970."""
    host: str
    pid: int = Field(gt=0, lt=2**31)
    born: int | None = None
    """When the process began, as the system counts: another process may get the same number later. None where the
    system does not tell."""

    @field_validator("reason", "host")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        """Shown in terminals, which obey some characters."""
        return text and "".join(letter if letter.isprintable() else " " for letter in text)

    @property
    def under_way(self) -> bool:
        """Whether the run has told no end of its own."""
        return self.state in UNDER_WAY

    @property
    def alive(self) -> bool | None:
        """Whether the process that wrote this is still there; None where it is another machine's."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's, and there
            pass
        state, born = _process(self.pid)
        return state not in ("Z", "X") and (self.born is None or born is None or born == self.born)

    @property
    def died(self) -> bool:
        """Whether it was killed, or its machine switched off, before it could tell an end."""
        return self.under_way and self.alive is False


class ProgressFile:
    """Writes `progress.json`. A disk that is full does not end a run for its sake."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._last: dict[str, Any] = {}
        self._state: State | None = None
        self._written = -math.inf
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._born = _process(self._pid)[1]

    def tell(self, state: State, progress: Progress | None = None, reason: str | None = None) -> None:
        """Write where the run stands, unless it was written less than `EVERY` seconds ago in the same state."""
        if progress is not None:
            self._last = {name: _finite(value) for name, value in asdict(progress).items()}
        now = time.monotonic()
        if state == self._state and now - self._written < EVERY:
            return
        document = {"state": state, "reason": reason, **self._last, "updated": round(time.time(), 3)}
        document |= {"host": self._host, "pid": self._pid, "born": self._born}
        with contextlib.suppress(ForewordError):
            write_atomic(self._path, json.dumps(document, indent=2).encode(), durable=False)
        self._state, self._written = state, now


@contextlib.contextmanager
def told(folder: Path, state: State, end: State | None = None) -> Iterator[ProgressFile]:
    """Keep the progress of what happens inside: it begins in `state` and, where nothing goes wrong, ends in `end`."""
    file = ProgressFile(folder)
    file.tell(state)
    try:
        yield file
    except KeyboardInterrupt:
        file.tell("interrupted")
        raise
    except BaseException as error:
        file.tell("failed", reason=str(error) or type(error).__name__)
        raise
    if end is not None:
        file.tell(end)


def read_progress(folder: Path) -> RunProgress | None:
    """Where the run in `folder` stands; None where it does not say so, as runs of older versions do not.

    Raises ForewordError where its file is damaged, or something else.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise ForewordError(f"cannot read {str(path)!r}: it is no file; remove it")
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise ForewordError(f"{str(path)!r} is damaged: it has more than {MOST_BYTES:,} bytes; remove it")
    try:
        return RunProgress.model_validate_json(data)
    except ValidationError as error:
        raise ForewordError(validation_message(f"{str(path)!r} is damaged", error)) from None


def _finite(value: Any) -> Any:
    """JSON has no name for numbers that are not."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _process(pid: int) -> tuple[str, int | None]:
    """State and birth of a process, as Linux tells them (proc(5), fields 3 and 22); elsewhere nothing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return "", None
