"""The job of a tuning run, from task files to stored, measured prompts. Knows the table; knows no training step."""

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
"""A mean score with its 95 % interval (`value`, `low`, `high`) by the metric's name; empty if there are no rows."""


@dataclass(frozen=True)
class Tuned:
    """The stored prompt and the scores of one task of a finished run."""

    ref: str
    """The reference of the stored prompt, `name:version`."""
    task: str
    run: Run
    dev: Scores
    """The scores on the dev rows. The version was chosen on them, so they are optimistic."""
    test: Scores
    """The scores on the test rows."""


def to_json(tuned: Sequence[Tuned]) -> dict[str, Any]:
    """Return the stable machine-readable form of a run; with several tasks, `tasks` lists what each has of its own."""
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
        tasks = [{"prompt": part.ref, "task": part.task, "dev": part.dev, "test": part.test} for part in tuned]
        return {"tasks": tasks, **shared, **end}
    [part] = tuned
    return {"prompt": part.ref, **shared, "dev": part.dev, "test": part.test, **end}


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

    `start` names the prompt to begin from, one for each task; by default that holds the inputs, one a line. `settings`
    holds fields of `TuneOptions`; those that it lacks may be planned by `budget` and searched by `sweep`. `name` and
    `alias` are those of the stored version; the other arguments are those of `foreword.tune`.

    Raises UsageError or ForewordError, if possible before a model is loaded.
    """
    chosen = dict(settings or {})
    options = _check_arguments(len(tasks), start, chosen, budget, sweep, out, resume, add_to, name, alias)
    store = PromptTable.open(table)
    data = [load_task(path, listener) for path in tasks]
    starts = [find_prompt(ref, store) for ref in start] if start else [plain_prompt(task) for task in data]
    parents = [stored_as(ref, store) for ref in start] if start else [None for _ in data]
    starts[0].replace(name=name or starts[0].name)  # raises if the name is not valid for a prompt
    if (tokens := chosen.get("tokens")) and (places := starts[0].virtual_tokens) and tokens != places:
        raise UsageError(f"--tokens {tokens}: {starts[0].name!r} has places for {places}, and keeps them; leave it out")
    title = data[0].name if len(data) == 1 else f"{len(data)}-tasks"
    folder = out or Path("runs") / f"{title}-{options.method}-{uuid.uuid4().hex[:12]}"
    model = load_backbone(backbone, dtype, listener)
    listener.say(f"The run goes to {folder}: stop it when you like; --resume --out {folder} goes on.")
    if resume and (folder / "checkpoint.safetensors").exists():
        chosen, budget, sweep = vars(as_begun(folder, chosen)), None, False
    arguments: dict[str, Any] = {"folder": folder, "resume": resume, "command": command, "listener": listener, **chosen}
    if len(tasks) > 1 or add_to is not None:
        runs = tune_many(model, data, starts, add_to=add_to, **arguments)
    else:
        runs = [learn(model, data[0], starts[0], budget=budget, sweep=sweep, **arguments)]
    if name:
        runs = [replace(run, prompt=run.prompt.replace(name=name)) for run in runs]
    if (done := runs[0].steps) < (limit := runs[0].options.steps):
        listener.say(f"Stopped after {done} of {limit} steps: dev had not become better for a while.")
    tuned = [
        _store_and_measure(
            model, task, start_prompt, parent, run, store, alias, listener, f"{task.name}: " if len(data) > 1 else ""
        )
        for task, start_prompt, parent, run in zip(data, starts, parents, runs, strict=True)
    ]
    refs = ", ".join(part.ref for part in tuned)
    listener.say(f"Stored as {refs}; the run, its curves and its checkpoint are in {folder}.")
    for warning in runs[0].warnings:
        listener.say(warning, heading="warning: ")
    return tuned


def _check_arguments(
    tasks: int, start: Sequence[str], chosen: Mapping[str, Any], budget: str | None, sweep: bool, out: Path | None,
    resume: bool, add_to: Path | None, name: str | None, alias: str | None,
) -> TuneOptions:  # fmt: skip
    """Raise UsageError for arguments that do not go together, before a model is loaded; else return the options."""
    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the run that is to go on")
    if budget is not None:
        if "steps" in chosen:
            raise UsageError("--budget plans the steps; give it or --steps")
        parse_budget(budget, "rows")
    options = TuneOptions.of(chosen)
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


def _store_and_measure(
    model: Backbone, task: Task, start: Prompt, parent: str | None, run: Run, store: PromptTable, alias: str | None,
    listener: Listener, heading: str,
) -> Tuned:  # fmt: skip
    """Store a task's prompt, calibrated if that scores higher on dev, and measure it on dev and test."""
    learned = run.prompt
    if task.dev:
        [candidate] = evaluate_on_dev(model, task, [learned], listener)
        learned = candidate.best
    stored = store.put(
        learned, alias, f"tuned on {task.name}, run {run.folder}", parent, run_provenance(task, start, parent, run)
    )
    dev = _measure(model, task, learned, task.dev, "dev", listener)
    test = _measure(model, task, learned, task.test, "test", listener)
    for split, scores in (("dev (which the version was chosen on)", dev), ("test", test)):
        for metric, interval in scores.items():
            listener.say(
                f"{split} {metric}: {interval['value']:.3f} "
                f"(95 % interval {interval['low']:.3f} to {interval['high']:.3f})",
                heading,
            )
    return Tuned(stored.ref, task.name, run, dev, test)


def _measure(
    model: Backbone, task: Task, prompt: Prompt, rows: Sequence[Row], split: str, listener: Listener
) -> Scores:
    if not rows:
        return {}
    measured = measure(bind(prompt, model), task, rows, counter(listener, f"measuring {split}"))
    interval = score_interval(measured.scores)
    return {task.metric: {"value": interval.value, "low": interval.low, "high": interval.high}}


def run_provenance(task: Task, start: Prompt, parent: str | None, run: Run) -> dict[str, str]:
    """Return how the prompt of a tuning run was made."""
    soft = run.prompt.soft
    assert soft is not None
    more = {"run": soft.run, "method": soft.method, "backbone": soft.backbone, "fingerprint": soft.fingerprint}
    return provenance(task, start, parent, **more)


def plain_prompt(task: Task) -> Prompt:
    """Return a prompt of the task's inputs alone, each with its name, one a line.

    Raises UsageError if an input's name cannot be a template's variable.
    """
    for name in task.inputs:
        if not name.isidentifier():
            raise UsageError(
                f"task {task.name!r}: the input {name!r} cannot be a template's variable; rename the column, with "
                "letters, digits and '_' only"
            )
    lines = [f"{name.capitalize()}: {{{{ {name} }}}}" for name in task.inputs]
    return Prompt(f"{task.name}-plain".lower(), "\n".join([*lines, "Answer:"]))
