"""A tuning run from task files to stored, measured prompts."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foreword.backbone import Backbone
from foreword.budgets import parse_budget
from foreword.errors import UsageError
from foreword.evals import evaluate_on_dev, score_interval
from foreword.flows import bind, measure
from foreword.jobs.find import provenance
from foreword.jobs.load import load_backbone, load_task
from foreword.listen import SILENT, Listener, counter
from foreword.prompts import Prompt
from foreword.table import PromptTable, check_alias, find_prompt, stored_as
from foreword.tasks import Row, Task
from foreword.tuning import Run, TuneOptions, as_begun, check_multitask, tune_many
from foreword.tuning import tune as learn

Scores = dict[str, dict[str, float]]
"""A metric's value with its 95 % interval, by the metric's name; empty where there are no rows."""


@dataclass(frozen=True)
class Tuned:
    """One task's part of a finished run."""

    ref: str
    """`name:version` of the stored prompt."""
    task: str
    run: Run
    dev: Scores
    """On the dev rows, which the version was chosen on."""
    test: Scores


def to_json(tuned: Sequence[Tuned]) -> dict[str, Any]:
    """The stable machine-readable shape of a run; of one with several tasks, what is theirs stands in a list."""
    run = tuned[0].run
    shared = {
        "method": run.options.method,
        "tokens": run.prompt.virtual_tokens,
        "trained_parameters": run.trained_parameters,
        "steps": run.steps,
        "seconds": round(run.seconds, 2),
    }
    end = {"run": str(run.folder), "warnings": list(run.warnings)}
    if len(tuned) > 1:
        tasks = [{"prompt": one.ref, "task": one.task, "dev": one.dev, "test": one.test} for one in tuned]
        return {"tasks": tasks, **shared, **end}
    [one] = tuned
    return {"prompt": one.ref, **shared, "dev": one.dev, "test": one.test, **end}


def tune(
    tasks: Sequence[Path],
    *,
    backbone: str,
    dtype: str = "auto",
    start: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    budget: str | None = None,
    sweep: bool = False,
    out: Path | None = None,
    resume: bool = False,
    add_to: Path | None = None,
    name: str | None = None,
    alias: str | None = None,
    command: str | None = None,
    table: str | None = None,
    listener: Listener = SILENT,
) -> list[Tuned]:
    """Learn a soft prompt for each task file, store it, and measure it on dev and once on test.

    `start` names the prompt to begin from, for each task one; without it the inputs stand one a line. `settings` are
    those fields of `TuneOptions` that are given; what is not given may be planned by `budget` and searched by `sweep`.
    The other arguments are those of `foreword.tune`, and of the table: `name` and `alias` of the stored version.

    Raises UsageError or ForewordError, before a model is loaded, for what can be known to be wrong.
    """
    given = dict(settings or {})
    options = _checked(len(tasks), start, given, budget, sweep, out, resume, add_to, name, alias)
    store = PromptTable.open(table)
    data = [load_task(path, listener) for path in tasks]
    starts = [find_prompt(ref, store) for ref in start] if start else [plain_prompt(task) for task in data]
    parents = [stored_as(ref, store) for ref in start] if start else [None for _ in data]
    starts[0].replace(name=name or starts[0].name)  # refuses what no prompt may be called
    if (tokens := given.get("tokens")) and (places := starts[0].virtual_tokens) and tokens != places:
        raise UsageError(f"--tokens {tokens}: {starts[0].name!r} has places for {places}, and keeps them; leave it out")
    title = data[0].name if len(data) == 1 else f"{len(data)}-tasks"
    folder = out or Path("runs") / f"{title}-{options.method}-{uuid.uuid4().hex[:12]}"
    model = load_backbone(backbone, dtype, listener)
    listener.say(f"The run goes to {folder}: stop it when you like; --resume --out {folder} goes on.")
    if resume and (folder / "checkpoint.safetensors").exists():
        given, budget, sweep = vars(as_begun(folder, given)), None, False
    how: dict[str, Any] = {"folder": folder, "resume": resume, "command": command, "listener": listener, **given}
    if len(tasks) > 1 or add_to is not None:
        runs = tune_many(model, data, starts, add_to=add_to, **how)
    else:
        runs = [learn(model, data[0], starts[0], budget=budget, sweep=sweep, **how)]
    if name:
        runs = [replace(run, prompt=run.prompt.replace(name=name)) for run in runs]
    if (done := runs[0].steps) < (most := runs[0].options.steps):
        listener.say(f"Stopped after {done} of {most} steps: dev had not become better for a while.")
    tuned = [
        _keep(model, task, begun, parent, run, store, alias, listener, f"{task.name}: " if len(data) > 1 else "")
        for task, begun, parent, run in zip(data, starts, parents, runs, strict=True)
    ]
    refs = ", ".join(one.ref for one in tuned)
    listener.say(f"Stored as {refs}; the run, its curves and its checkpoint are in {folder}.")
    for warning in runs[0].warnings:
        listener.say(warning, heading="warning: ")
    return tuned


def _checked(
    tasks: int, start: Sequence[str], given: Mapping[str, Any], budget: str | None, sweep: bool, out: Path | None,
    resume: bool, add_to: Path | None, name: str | None, alias: str | None,
) -> TuneOptions:  # fmt: skip
    """What can be wrong is told before a model is loaded, and long before the result is to be stored."""
    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the run that is to go on")
    if budget is not None:
        if "steps" in given:
            raise UsageError("--budget plans the steps; give it or --steps")
        parse_budget(budget, "rows")
    options = TuneOptions.of(given)
    if tasks > 1 or add_to is not None:
        check_multitask(options.method)
        if budget is not None or sweep:
            raise UsageError("--budget and --sweep are for one task alone; give --steps and --lr")
    if tasks > 1 and name is not None:
        raise UsageError("--name names one prompt; those of several tasks are called TASK-METHOD")
    if start and len(start) != tasks:
        raise UsageError(f"--start is given {len(start)} times for {tasks} tasks; give one for each, in order")
    if alias is not None:
        check_alias(alias)
    return options


def _keep(
    model: Backbone, task: Task, start: Prompt, parent: str | None, run: Run, store: PromptTable, alias: str | None,
    listener: Listener, heading: str,
) -> Tuned:  # fmt: skip
    """Put a task's prompt into the table, calibrated where that does better on dev, and measure it."""
    learned = run.prompt
    if task.dev:
        [candidate] = evaluate_on_dev(model, task, [learned], listener)
        learned = candidate.best
    stored = store.put(
        learned, alias, f"tuned on {task.name}, run {run.folder}", parent, of_run(task, start, parent, run)
    )
    dev = _scores(model, task, learned, task.dev, "dev", listener)
    test = _scores(model, task, learned, task.test, "test", listener)
    for split, scores in (("dev (which the version was chosen on)", dev), ("test", test)):
        for metric, found in scores.items():
            listener.say(
                f"{split} {metric}: {found['value']:.3f} (95 % interval {found['low']:.3f} to {found['high']:.3f})",
                heading,
            )
    return Tuned(stored.ref, task.name, run, dev, test)


def _scores(model: Backbone, task: Task, prompt: Prompt, rows: Sequence[Row], split: str, listener: Listener) -> Scores:
    if not rows:
        return {}
    measured = measure(bind(prompt, model), task, rows, counter(listener, f"measuring {split}"))
    interval = score_interval(measured.scores)
    return {task.metric: {"value": interval.value, "low": interval.low, "high": interval.high}}


def of_run(task: Task, start: Prompt, parent: str | None, run: Run) -> dict[str, str]:
    """How the prompt of a tuning run came about."""
    soft = run.prompt.soft
    assert soft is not None
    more = {"run": soft.run, "method": soft.method, "backbone": soft.backbone, "fingerprint": soft.fingerprint}
    return provenance(task, start, parent, **more)


def plain_prompt(task: Task) -> Prompt:
    """A prompt with nothing but the inputs, named, for who has none yet."""
    for name in task.inputs:
        if not name.isidentifier():
            raise UsageError(
                f"task {task.name!r}: the input {name!r} cannot be a template's variable; rename the column, with "
                "letters, digits and '_' only"
            )
    lines = [f"{name.capitalize()}: {{{{ {name} }}}}" for name in task.inputs]
    return Prompt(f"{task.name}-plain".lower(), "\n".join([*lines, "Answer:"]))
