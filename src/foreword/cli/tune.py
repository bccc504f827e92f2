"""`foreword tune`: learn soft prompts for a task or several, store them, and report them on the test rows once."""

import re
import shlex
import uuid
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from foreword.cli.console import Display, print_json
from foreword.cli.shared import (
    DEFAULT_BACKBONE,
    BackboneName,
    Dtype,
    Json,
    TableUrl,
    find_prompt,
    load_backbone,
    stored_as,
)
from foreword.cli.tasks import load_task, measure, plain_prompt
from foreword.errors import UsageError

if TYPE_CHECKING:
    from foreword.backbone import Backbone
    from foreword.prompts import Prompt
    from foreword.table import PromptTable
    from foreword.tasks import Task
    from foreword.tuning import Run

COMMAND = "foreword.command"
"""Where the context of a call keeps its command line."""


class Tune(TyperCommand):
    """The verb as a command line knows it: `--method` without a name lists the methods."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[COMMAND] = command_line(args)
        if any(a == "--method" and (b is None or b.startswith("-")) for a, b in zip_longest(args, args[1:])):
            list_methods()
            ctx.exit()
        return super().parse_args(ctx, args)


def command_line(arguments: list[str]) -> str:
    """The call as a shell takes it, to be kept; the password of a database is not."""
    shown = [re.sub(r"(://[^/:@]*):.*@", r"\1:***@", argument) for argument in arguments]
    shown = [re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", argument) for argument in shown]
    return shlex.join(["foreword", "tune", *shown]).encode(errors="backslashreplace").decode()


def list_methods() -> None:
    """A line for each method: what it trains, how many numbers that are, when to choose it."""
    from foreword.tuning.methods import METHODS

    width = max(map(len, METHODS))
    for name, method in METHODS.items():
        print(f"{name:{width}}  {method.trains}; choose it when {method.when}")
    print("\nP virtual tokens, D the model's width, L layers, H KV heads, S tokens of the longest row, T tasks.")


def tune(
    context: typer.Context,
    tasks: Annotated[
        list[Path],
        typer.Argument(
            metavar="TASK...",
            help="The task file (YAML): data, inputs, target, metric, splits. Several are tuned together, by a method "
            "made for them.",
        ),
    ],
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt to begin from: a .prompt file or a name in the table; of several tasks, once for each. "
            "[default: inputs, one a line]"
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How to learn; without a name, lists the methods. [default: prompt-tuning]")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Virtual tokens. [default: 16]")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="text, labels, demonstrations, vocabulary, random, zero (a prefix only) or prompt. "
            "[default: its vectors, else its text]"
        ),
    ] = None,
    init_text: Annotated[
        str | None, typer.Option(help="The text to begin from. [default: the start prompt's words]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps at most. [default: 250]")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per step; planned by --budget. [default: 16]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: what suits the method]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run. [default: 0]")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Plan the run within 90s, 5m, 1.5h or 4000rows instead of --steps.")
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="First try a few settings in one batch, on top of --budget; the best on dev is tuned."
        ),
    ] = False,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/TASK-METHOD-ID]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    add_to: Annotated[
        Path | None, typer.Option(help="Folder of a finished run of several tasks: these are added to it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the prompt table. [default: TASK-METHOD]")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to give the stored version.")] = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Learn a soft prompt for a task.

    Kill it whenever you like: --resume with the same --out goes on as if nothing had happened.
    """
    from foreword.budgets import parse_budget
    from foreword.table import PromptTable
    from foreword.table.refs import check_alias
    from foreword.tuning import TuneOptions, tune_many
    from foreword.tuning import tune as tune_one
    from foreword.tuning.methods import check_multitask
    from foreword.tuning.plan import as_begun

    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the run that is to go on")
    given: dict[str, Any] = {
        "method": method, "tokens": tokens, "init": init, "init_text": init_text, "steps": steps, "batch": batch,
        "learning_rate": lr, "seed": seed,
    }  # fmt: skip
    settings = {key: value for key, value in given.items() if value is not None}
    if budget is not None:
        if steps is not None:
            raise UsageError("--budget plans the steps; give it or --steps")
        parse_budget(budget, "rows")
    # What can be wrong is told before a model is loaded, and long before the result is to be stored.
    options = TuneOptions.of(settings)
    together = len(tasks) > 1 or add_to is not None
    if together:
        check_multitask(options.method)
        if budget is not None or sweep:
            raise UsageError("--budget and --sweep are for one task alone; give --steps and --lr")
    if len(tasks) > 1 and name is not None:
        raise UsageError("--name names one prompt; those of several tasks are called TASK-METHOD")
    if start and len(start) != len(tasks):
        raise UsageError(f"--start is given {len(start)} times for {len(tasks)} tasks; give one for each, in order")
    if alias is not None:
        check_alias(alias)
    with Display() as display:
        store = PromptTable.open(table)
        data = [load_task(path, display) for path in tasks]
        prompts = [find_prompt(ref, store) for ref in start] if start else [plain_prompt(task) for task in data]
        parents = [stored_as(ref, store) for ref in start] if start else [None for _ in data]
        prompts[0].replace(name=name or prompts[0].name)  # refuses what no prompt may be called
        if tokens and (places := prompts[0].virtual_tokens) and tokens != places:
            raise UsageError(
                f"--tokens {tokens}: {prompts[0].name!r} has places for {places}, and keeps them; leave it out"
            )
        title = data[0].name if len(data) == 1 else f"{len(data)}-tasks"
        folder = out or Path("runs") / f"{title}-{options.method}-{uuid.uuid4().hex[:12]}"
        model = load_backbone(backbone, dtype, display)
        display.say(f"The run goes to {folder}: stop it when you like; --resume --out {folder} goes on.")
        if resume and (folder / "checkpoint.safetensors").exists():
            settings, budget, sweep = vars(as_begun(folder, settings)), None, False
        how: dict[str, Any] = {"folder": folder, "resume": resume, "command": context.meta[COMMAND]}
        if together:
            runs = tune_many(model, data, prompts, add_to=add_to, listener=display, **how, **settings)
        else:
            settings |= {"budget": budget, "sweep": sweep}
            runs = [tune_one(model, data[0], prompts[0], listener=display, **how, **settings)]
        if name:
            runs = [replace(run, prompt=run.prompt.replace(name=name)) for run in runs]
        if (steps_done := runs[0].steps) < (most := runs[0].options.steps):
            display.say(f"Stopped after {steps_done} of {most} steps: dev had not become better for a while.")
        results = [
            _store(model, task, begun, parent, run, store, alias, display, f"{task.name}: " if len(data) > 1 else "")
            for task, begun, parent, run in zip(data, prompts, parents, runs, strict=True)
        ]
        refs = [result["prompt"] for result in results]
        display.say(f"Stored as {', '.join(refs)}; the run, its curves and its checkpoint are in {folder}.")
        for warning in runs[0].warnings:
            display.say(warning, heading="warning: ")
    if as_json:
        print_json(_document(runs[0], results))
    else:
        print("\n".join(refs))


def _store(
    model: "Backbone", task: "Task", start: "Prompt", parent: str | None, run: "Run", store: "PromptTable",
    alias: str | None, display: Display, heading: str,
) -> dict[str, Any]:  # fmt: skip
    """Put a task's prompt into the table and measure it: its part of the document."""
    from foreword.evals import evaluate_on_dev

    learned = run.prompt
    if task.dev:
        [candidate] = evaluate_on_dev(model, task, [learned], display)
        learned = candidate.best  # calibrated, where that does better on dev
    message, how = f"tuned on {task.name}, run {run.folder}", origin(task, start, parent, run)
    stored = store.put(learned, alias, message, parent, how)
    dev = measure(model, task, learned, task.dev, "dev", display)
    test = measure(model, task, learned, task.test, "test", display)
    for split, measured in (("dev (which the version was chosen on)", dev), ("test", test)):
        for metric, found in measured.items():
            display.say(
                f"{split} {metric}: {found['value']:.3f} (95 % interval {found['low']:.3f} to {found['high']:.3f})",
                heading,
            )
    return {"prompt": stored.ref, "task": task.name, "dev": dev, "test": test}


def origin(task: "Task", start: "Prompt", parent: str | None, run: "Run") -> dict[str, str]:
    """How a prompt was learned, for the table: whoever has the data and the backbone can learn it again."""
    soft = run.prompt.soft
    assert soft is not None
    return {
        "task": task.name,
        "data": task.data_hash,
        "run": soft.run,
        "method": soft.method,
        "start": parent or start.name,
        "start_digest": start.digest,
        "backbone": soft.backbone,
        "fingerprint": soft.fingerprint,
    }


def _document(run: "Run", results: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of a run; of one with several tasks, what is theirs stands in a list."""
    shared = {
        "method": run.options.method,
        "tokens": run.prompt.virtual_tokens,
        "trained_parameters": run.trained_parameters,
        "steps": run.steps,
        "seconds": round(run.seconds, 2),
    }
    end = {"run": str(run.folder), "warnings": list(run.warnings)}
    if len(results) > 1:
        return {"tasks": results, **shared, **end}
    [result] = results
    return {"prompt": result["prompt"], **shared, "dev": result["dev"], "test": result["test"], **end}
