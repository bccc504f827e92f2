"""`foreword tune`: learn soft prompts for a task or several, store them, and report them on the test rows once."""

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
    from foreword.errors import ForewordError
    from foreword.tuning import METHODS

    width = max(map(len, METHODS))
    for name in METHODS:
        try:
            method = METHODS[name]
            print(f"{name:{width}}  {method.trains}; choose it when {method.when}")
        except ForewordError as error:  # of a package that is broken
            print(f"{name:{width}}  {error}")
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
    from foreword.jobs import to_json, tune

    given: dict[str, Any] = {
        "method": method, "tokens": tokens, "init": init, "init_text": init_text, "steps": steps, "batch": batch,
        "learning_rate": lr, "seed": seed,
    }  # fmt: skip
    settings = {key: value for key, value in given.items() if value is not None}
    with Display() as display:
        tuned = tune(
            tasks, start=start or (), settings=settings, budget=budget, sweep=sweep, backbone=backbone, dtype=dtype,
            out=out, resume=resume, add_to=add_to, name=name, alias=alias, command=context.meta[COMMAND], table=table,
            listener=display,
        )  # fmt: skip
    if as_json:
        print_json(to_json(tuned))
    else:
        print("\n".join(one.ref for one in tuned))
