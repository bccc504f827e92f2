"""What a run's folder tells about the run: how it was started, its curve, where it stands.

Reading writes nothing and takes no lock, so that a run may be looked at while it goes on.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from foreword.errors import ForewordError, UsageError
from foreword.files import write_atomic
from foreword.forms import misfit
from foreword.prompts import SoftTokens
from foreword.tuning import checkpoint
from foreword.tuning.curves import CurvePoint
from foreword.tuning.finished import id_of
from foreword.tuning.methods import by_task
from foreword.tuning.options import TuneOptions

FILES = ("run.json", "checkpoint.safetensors", "curves.jsonl")
"""What a run writes into its folder."""
POINT = TypeAdapter(CurvePoint)


class RunFile(BaseModel):
    """`run.json`: what the run was started with, and on what."""

    id: str
    """Follows from the settings, the data and the backbone alone, which stand beside it."""
    task: str | list[str]
    """The name of one task, or those of several that were tuned together."""
    backbone: str
    dtype: str
    options: TuneOptions
    environment: dict[str, Any] | None = None
    """At its start; None where an older version started it."""
    latest_environment: dict[str, Any] | None = None
    """When it was last resumed, where that differs."""
    command: str | None = None
    """The command line that started it; None where Python did."""
    latest_command: str | None = None
    """The one that resumed it last."""


@dataclass(frozen=True)
class Record:
    """A run as its folder has it, finished or not."""

    file: RunFile
    curve: tuple[CurvePoint, ...]
    step: int
    """Optimiser steps done at the last checkpoint."""
    best_step: int
    """The step whose version is kept."""


def write_run_file(
    folder: Path, run_id: str, identity: Mapping[str, Any], environment: Mapping[str, Any], command: str | None,
    resumed: bool,
) -> None:  # fmt: skip
    """Write `run.json`. Of a resumed run the first environment and command stay, with the latest beside them."""
    path = folder / "run.json"
    before = _before(path) if resumed else {"environment": environment, "command": command}
    document = {"id": run_id, **identity}
    for name, now in (("environment", environment), ("command", command)):
        document[name] = before.get(name)
        if now not in (None, document[name]):
            document[f"latest_{name}"] = now
    write_atomic(path, json.dumps(document, indent=2).encode())


def _before(path: Path) -> dict[str, Any]:
    """What can be read of it: a run goes on from its checkpoint, whatever has become of the file that describes it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_record(folder: Path) -> Record:
    """Raises ForewordError when `folder` holds no run, or one with a file that is missing or damaged."""
    if not os.path.isdir(folder):
        raise ForewordError(
            f"there is no folder {str(folder)!r}; give the folder of a run, the --out of 'foreword tune'"
        )
    if not (folder / "run.json").exists():
        raise ForewordError(f"{str(folder)!r} is no run's folder: it has no 'run.json', which 'foreword tune' writes")
    file = _read_run_file(folder / "run.json")
    lines = _read_curve(folder / "curves.jsonl")
    saved = checkpoint.read(_there(folder / "checkpoint.safetensors"))
    curve = max(lines, saved.curve, key=len)  # the checkpoint is written first: it may be a point ahead
    return Record(file, curve, saved.step, saved.best_step)


def start_of(folder: Path, soft: SoftTokens) -> dict[str, np.ndarray] | None:
    """The vectors that the run in `folder` began with; None where it is not the run that made `soft`.

    Raises ForewordError where there is no run, or an older version wrote it, which did not keep them.
    """
    path = folder / "checkpoint.safetensors"
    if not os.path.isfile(path):
        raise ForewordError(f"{str(folder)!r} holds no run: give the --out of 'foreword tune'")
    state = checkpoint.read(path)
    if id_of(state.settings) != soft.run:
        return None
    if not state.start:
        raise ForewordError(
            f"the run in {str(folder)!r} was written by an older foreword, which did not keep its start"
        )
    task = state.settings["task"]
    tasks = 1 if isinstance(task, str) else len(task)
    for best, start in zip(by_task(state.best, tasks), by_task(state.start, tasks), strict=True):
        made = {name: tensor.numpy() for name, tensor in best.items()}
        if made.keys() == soft.tensors.keys() and all(np.array_equal(made[k], soft.tensors[k]) for k in made):
            return {name: tensor.numpy() for name, tensor in start.items()}
    return None


def _read_run_file(path: Path) -> RunFile:
    try:
        return RunFile.model_validate_json(_bytes(path))
    except ValidationError as error:
        raise ForewordError(misfit(f"{str(path)!r} is damaged", error)) from None
    except UsageError as error:  # a setting that this version does not know
        raise ForewordError(f"{str(path)!r} holds what no run can have been started with: {error}") from error


def _read_curve(path: Path) -> tuple[CurvePoint, ...]:
    points = []
    for number, line in enumerate(_bytes(_there(path)).splitlines(), 1):
        try:
            points.append(POINT.validate_json(line))
        except ValidationError as error:
            raise ForewordError(misfit(f"{str(path)!r}, line {number}, is damaged", error)) from None
    return tuple(points)


def _there(path: Path) -> Path:
    if not path.exists():
        raise ForewordError(f"{str(path)!r} is missing; a run writes it when it first measures, soon after its start")
    return path


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
