"""Which settings a run gets: as it was begun, or planned by a budget and searched by a sweep, told in plain words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreword.cli.console import Display
from foreword.errors import ForewordError

if TYPE_CHECKING:
    from foreword.backbone import Backbone
    from foreword.prompts import Prompt
    from foreword.tasks import Task
    from foreword.tuning import TuneOptions
    from foreword.tuning.sweep import Trial

TRIALS = 9


def as_begun(folder: Path, given: Mapping[str, Any]) -> "TuneOptions":
    """The settings of the run in `folder`, which were planned or searched perhaps, with what is given now."""
    from foreword.tuning import TuneOptions, checkpoint

    return TuneOptions.of({**checkpoint.read(folder / "checkpoint.safetensors").settings["options"], **given})


def settle(
    model: "Backbone", task: "Task", start: "Prompt", options: "TuneOptions", given: Sequence[str], *,
    sweep: bool, budget: str | None, folder: Path, display: Display,
) -> "TuneOptions":  # fmt: skip
    """`options` after a sweep and within a budget. The sweep comes on top of the budget; none of its trials learns for
    longer than the run to come.
    """
    from foreword.files import locked
    from foreword.tuning.budget import plan

    if (sweep or budget) and (folder / "checkpoint.safetensors").exists():
        raise ForewordError(f"{str(folder)!r} holds a run already; add --resume to go on, or choose another folder")
    if budget:
        display.stage("timing a few steps", 0, 0)
        planned = plan(model, task, start, options, budget, given)
    if sweep:
        run = replace(options, steps=planned.steps, batch=planned.batch) if budget else options
        with locked(folder, "tuning"):
            options = _search(model, task, start, run, given, folder, display)
    if budget:
        options = plan(model, task, start, options, budget, [*given, "batch"]) if sweep else planned
        display.say(
            f"Within {budget}: {options.steps:,} steps of {options.batch} rows; every {options.eval_every} "
            f"of them {options.dev_rows} dev rows are measured, and {options.patience} measurements without a better "
            "one end it."
        )
    return options


def _search(
    model: "Backbone", task: "Task", start: "Prompt", options: "TuneOptions", given: Sequence[str], folder: Path,
    display: Display,
) -> "TuneOptions":  # fmt: skip
    from foreword.files import write_atomic
    from foreword.tuning.sweep import grid, sweep

    settings = grid(options, given, TRIALS, start)
    display.say(f"{len(settings)} settings learn side by side in one batch; dev decides which of them go on.")

    def on_rung(steps: int, trials: Sequence["Trial"], going: int) -> None:
        for place, trial in enumerate(trials):
            fate = "goes on" if place < going else "drops out"
            display.say(f"  {steps:3} steps  dev {trial.dev:.3f}  {fate:9}  {trial}")

    found = sweep(model, task, start, settings, on_rung, lambda done, total: display.stage("sweep", done, total))
    display.say(f"The run begins anew with the best: {found[0]}.")
    trials = [{"steps": trial.steps, "dev": trial.dev, **asdict(trial.options)} for trial in found]
    write_atomic(folder / "sweep.json", json.dumps(trials, indent=2).encode())
    best = found[0].options
    return replace(options, method=best.method, tokens=best.tokens, init=best.init, learning_rate=best.learning_rate)
