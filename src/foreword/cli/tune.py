"""`foreword tune`: tunes soft prompts for one task or several, stores them, and measures them once on test."""

import re
import shlex
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl

COMMAND = "foreword.command"
"""The key under which the context of a call keeps its command line."""


class Tune(TyperCommand):
    """The `tune` command, in which `--method` without a name lists the methods."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the command line for the run's record, and list the methods if that is asked for."""
        ctx.meta[COMMAND] = command_line(args)
        if any(a == "--method" and (b is None or b.startswith("-")) for a, b in zip_longest(args, args[1:])):
            list_methods()
            ctx.exit()
        return super().parse_args(ctx, args)


def command_line(arguments: list[str]) -> str:
    """Return the call as a shell command, with passwords of databases masked."""
    masked = [re.sub(r"(://[^/:@]*):.*@", r"\1:***@", argument) for argument in arguments]
    masked = [re.sub(r"(?i)([?&]password=)[^&]*", r"\1***", argument) for argument in masked]
    return shlex.join(["foreword", "tune", *masked]).encode(errors="backslashreplace").decode()


def list_methods() -> None:
    """Print a line for each method: what it trains, how many parameters those are, when to choose it."""
    from foreword.errors import ForewordError
    from foreword.tuning import METHODS

    width = max(map(len, METHODS))
    for name in METHODS:
        try:
            method = METHODS[name]
            print(f"{name:{width}}  {method.trains}; choose it when {method.when}")
        except ForewordError as error:  # a package that adds a method is broken
            print(f"{name:{width}}  {error}")
    print("\nP virtual tokens, D hidden size, L layers, H KV heads, S tokens of the longest row, T tasks.")


def tune(
    context: typer.Context,
    tasks: Annotated[
        list[Path],
        typer.Argument(
            metavar="TASK...",
            help="The task file (YAML): data, inputs, target, metric, splits. Several tasks are tuned together by a "
            "multitask method.",
        ),
    ],
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt to begin from: a .prompt file or a name in the table; repeat it for each task. "
            "[default: inputs, one a line]"
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Tuning method; without a name, list the methods. [default: prompt-tuning]")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Number of virtual tokens. [default: 16]")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Initialization: text, labels, demonstrations, vocabulary, random, zero (prefix tuning only) or "
            "prompt. [default: the start's vectors, else its text]"
        ),
    ] = None,
    init_text: Annotated[
        str | None, typer.Option(help="Text that virtual tokens are initialized from. [default: the start's words]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Maximum number of optimizer steps. [default: 250]")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per step; planned by --budget. [default: 16]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: that of the method]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run. [default: 0]")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Plan the run within 90s, 5m, 1.5h or 4000rows instead of --steps.")
    ] = None,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep", help="First try a few settings in one batch, on top of --budget, and tune the best on dev."
        ),
    ] = False,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/TASK-METHOD-ID]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint in --out.")] = False,
    add_to: Annotated[
        Path | None, typer.Option(help="Folder of a finished run of several tasks, to which these tasks are added.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the prompt table. [default: TASK-METHOD]")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to give the stored version.")] = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Tune a soft prompt for a task.

    You can stop it at any time: --resume with the same --out continues the run exactly where it was.
    """
    from foreword.jobs import to_json, tune

    options: dict[str, Any] = {
        "method": method, "tokens": tokens, "init": init, "init_text": init_text, "steps": steps, "batch": batch,
        "learning_rate": lr, "seed": seed,
    }  # fmt: skip
    settings = {key: value for key, value in options.items() if value is not None}
    with Display() as display:
        tuned = tune(
            tasks, start=start or (), settings=settings, budget=budget, sweep=sweep, backbone=backbone, dtype=dtype,
            out=out, resume=resume, add_to=add_to, name=name, alias=alias, command=context.meta[COMMAND], table=table,
            listener=display,
        )  # fmt: skip
    if as_json:
        print_json(to_json(tuned))
    else:
        print("\n".join(task.ref for task in tuned))
