"""`foreword compare`: compares strategies on a task's test rows, with baselines, intervals and a verdict."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli.console import Display, print_json, print_table
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl
from foreword.errors import UsageError


def compare(
    task: Annotated[Path, typer.Argument(help="The task file (YAML).")],
    strategies: Annotated[
        list[str],
        typer.Argument(
            metavar="STRATEGY...",
            help="Prompts (.prompt files or names in the table), chains (.yaml files), Python functions "
            "(FILE.py:FUNCTION, which runs the file), or strategies of installed packages.",
        ),
    ],
    examples: Annotated[
        int, typer.Option(min=0, help="Also measure the best hard prompt with this many solved examples.")
    ] = 0,
    lora: Annotated[
        bool, typer.Option("--lora", help="Also train LoRA (PEFT) behind the best hard prompt, on a copy of the model.")
    ] = False,
    lora_steps: Annotated[
        int | None, typer.Option(help="Maximum number of optimizer steps of LoRA. [default: 250]")
    ] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of LoRA. [default: 16]")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    seed: Annotated[int | None, typer.Option(help="Seed of the split. [default: the task's]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and result.json.")] = Path(),
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Compare strategies on the test rows of your task."""
    from foreword.jobs import compare as job
    from foreword.tuning import Lora

    lora_settings = {name: value for name, value in (("steps", lora_steps), ("rank", lora_rank)) if value is not None}
    if lora_settings and not lora:
        raise UsageError(f"--lora-{next(iter(lora_settings))} is for --lora; add --lora")
    adapters = Lora(**lora_settings) if lora else None
    with Display() as display:
        compared = job(
            task, strategies, backbone=backbone, dtype=dtype, examples=examples, lora=adapters, seed=seed, out=out,
            table=table, listener=display,
        )  # fmt: skip
    if as_json:
        print_json(compared.result.to_json())
        return
    print_table(compared.result.table())
    print(f"\n{compared.page} is the report; {compared.document} has the numbers.")
    for ref in compared.better_calibrated:
        print(f"{ref} scores higher on dev calibrated; 'foreword prompts calibrate {ref} --task {task}' stores it.")
