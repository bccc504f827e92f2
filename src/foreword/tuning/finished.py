"""What a finished run of several tasks hands on to tasks that are added later. Only reads its folder.

The tasks before are not trained any more: their prompts stay in the table as they are.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foreword.errors import ForewordError, UsageError
from foreword.tuning import checkpoint
from foreword.tuning.curves import peak
from foreword.tuning.lesson import check_multitask, soft_name
from foreword.tuning.methods import METHODS
from foreword.tuning.options import TuneOptions


@dataclass(frozen=True)
class Finished:
    """A run that is over."""

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


def id_of(identity: Mapping[str, Any]) -> str:
    """A run's id follows from what it was started with."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


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
