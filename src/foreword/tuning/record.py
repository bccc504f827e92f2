"""What a run's folder tells: how the run was started, its curve, where it stands, what later tasks take from it.

Reading writes nothing and takes no lock, so that a run may be looked at while it goes on.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import Tensor

from foreword.errors import ForewordError, UsageError
from foreword.forms import validation_message
from foreword.prompts import SoftTokens
from foreword.tuning import checkpoint
from foreword.tuning.curves import CurvePoint, peak
from foreword.tuning.folder import id_of
from foreword.tuning.methods import METHODS, by_task, check_multitask
from foreword.tuning.options import TuneOptions
from foreword.tuning.setup import soft_name

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
    lora: dict[str, int] | None = None
    """The rank, where adapters were trained and no soft prompt."""
    environment: dict[str, Any] | None = None
    """At its start; None where an older version started it."""
    latest_environment: dict[str, Any] | None = None
    """When it was last resumed, where that differs."""
    command: str | None = None
    """The command line that started it; None where Python did."""
    latest_command: str | None = None
    """The one that resumed it last."""

    @property
    def method(self) -> str:
        """How it learned."""
        return self.options.method if self.lora is None else "lora"


@dataclass(frozen=True)
class Record:
    """A run as its folder has it, finished or not."""

    file: RunFile
    curve: tuple[CurvePoint, ...]
    step: int
    """Optimizer steps done at the last checkpoint."""
    best_step: int
    """The step whose version is kept."""


@dataclass(frozen=True)
class Finished:
    """A run of several tasks that is over. Its tasks are not trained any more: their prompts stay as they are."""

    id: str
    prompts: list[str]
    """Names of the prompts of all its tasks, and of those that these were added to."""
    shared: Mapping[str, Tensor]
    """What its tasks had in common: entries of the encoder's state."""

    def check_new(self, names: list[str]) -> None:
        """Raises UsageError where one of the prompts `names` is in the run already."""
        for name in names:
            if name in self.prompts:
                raise UsageError(f"the run has a prompt {name!r} already, which stays as it is; add other tasks")


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


def read_finished(folder: Path, options: TuneOptions, fingerprint: str) -> Finished:
    """The run in `folder`. Raises ForewordError where it is not over, or was tuned otherwise than `options` say."""
    check_multitask(options.method)
    path = folder / "checkpoint.safetensors"
    if not os.path.isfile(path):
        raise ForewordError(f"{str(folder)!r} holds no run to add tasks to; give the --out of one")
    state = checkpoint.read(path)
    before = TuneOptions.of(state.settings["options"])
    if not METHODS[before.method].multitask:
        raise UsageError(f"the run in {str(folder)!r} is of {before.method!r}, to which no tasks can be added")
    for name in ("method", "tokens"):
        old, new = getattr(before, name), getattr(options, name)
        if old != new:
            raise UsageError(f"the run in {str(folder)!r} has {name} {old!r}, not {new!r}; give --{name} {old}")
    if state.settings["fingerprint"] != fingerprint:
        raise ForewordError(f"the run in {str(folder)!r} has another backbone, {state.settings['backbone']!r}; take it")
    if not before.ended(state.step, peak(state.curve)):
        raise ForewordError(
            f"the run in {str(folder)!r} stopped at step {state.step} of {before.steps}; finish it first with --resume"
        )
    task = state.settings["task"]
    names = [soft_name(name, before.method) for name in ([task] if isinstance(task, str) else task)]
    shared = {name: tensor for name, tensor in state.encoder.items() if name.split(".")[0] == "shared"}
    return Finished(id_of(state.settings), [*state.settings.get("prompts_before", []), *names], shared)


def _read_run_file(path: Path) -> RunFile:
    try:
        return RunFile.model_validate_json(_bytes(path))
    except ValidationError as error:
        raise ForewordError(validation_message(f"{str(path)!r} is damaged", error)) from None
    except UsageError as error:  # a setting that this version does not know
        raise ForewordError(f"{str(path)!r} holds what no run can have been started with: {error}") from error


def _read_curve(path: Path) -> tuple[CurvePoint, ...]:
    points = []
    for number, line in enumerate(_bytes(_there(path)).splitlines(), 1):
        try:
            points.append(POINT.validate_json(line))
        except ValidationError as error:
            raise ForewordError(validation_message(f"{str(path)!r}, line {number}, is damaged", error)) from None
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
