"""Which settings a run gets: those it was begun with, or planned within a budget and searched by a sweep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from foreword.backbone import Backbone
from foreword.files import locked, write_atomic
from foreword.listen import SILENT, Listener
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning import checkpoint
from foreword.tuning.folder import FILES, refuse_a_run
from foreword.tuning.options import TuneOptions
from foreword.tuning.plan.budget import fit_budget
from foreword.tuning.plan.halving import Trial, TrialResult, grid, sweep
from foreword.tuning.progress import told

TRIALS = 9

__all__ = ["TRIALS", "Trial", "TrialResult", "as_begun", "fit_budget", "grid", "settle", "sweep"]


def as_begun(folder: Path, given: Mapping[str, Any]) -> TuneOptions:
    """The settings of the run in `folder`, which were planned or searched perhaps, with what is given now."""
    return TuneOptions.of({**checkpoint.read(folder / "checkpoint.safetensors").settings["options"], **given})


def settle(
    backbone: Backbone, task: Task, start: Prompt, options: TuneOptions, given: Sequence[str], *,
    searched: bool, budget: str | None, folder: Path, listener: Listener = SILENT,
) -> TuneOptions:  # fmt: skip
    """`options` after a sweep, where they are to be `searched`, and within a budget; those `given` stay as they are.

    The sweep comes on top of the budget; none of its trials learns for longer than the run to come. They are kept in
    `sweep.json`. Raises ForewordError where the folder holds a run already, UsageError where the budget holds none.
    """
    with locked(folder, "tuning", FILES):
        refuse_a_run(folder)
        with told(folder, "planning"):
            if budget:
                listener.stage("timing a few steps", 0, 0)
                planned = fit_budget(backbone, task, start, options, budget, given)
            if searched:
                run = replace(options, steps=planned.steps, batch=planned.batch) if budget else options
                options = _search(backbone, task, start, run, given, folder, listener)
            if budget:
                options = fit_budget(backbone, task, start, options, budget, [*given, "batch"]) if searched else planned
                listener.say(
                    f"Within {budget}: {options.steps:,} steps of {options.batch} rows; every {options.eval_every} "
                    f"of them {options.dev_rows} dev rows are measured, and {options.patience} measurements without a "
                    "better one end it."
                )
            return options


def _search(
    backbone: Backbone, task: Task, start: Prompt, options: TuneOptions, given: Sequence[str], folder: Path,
    listener: Listener,
) -> TuneOptions:  # fmt: skip
    settings = grid(options, given, TRIALS, start)
    listener.say(f"{len(settings)} settings learn side by side in one batch; dev decides which of them go on.")
    results = sweep(backbone, task, start, settings, listener)
    listener.say(f"The run begins anew with the best: {results[0]}.")
    trials = [{"steps": result.steps, "dev": result.dev, **asdict(result.options)} for result in results]
    write_atomic(folder / "sweep.json", json.dumps(trials, indent=2).encode())
    best = results[0].options
    return replace(options, method=best.method, tokens=best.tokens, init=best.init, learning_rate=best.learning_rate)
