"""`foreword prompts calibrate`: take a model's label bias off, and store the prompt so."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl


def calibrate(
    ref: Annotated[str, typer.Argument(metavar="PROMPT", help="A prompt with choices: a .prompt file or a name.")],
    task: Annotated[Path, typer.Option(help="Its first 200 training rows are read, without their labels.")],
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Store a version that answers without the model's label bias, as 'compare' measures it where dev says so.

    A small model may prefer one choice whatever it reads. How much is measured and becomes part of the prompt.
    """
    from foreword.jobs import calibrate as calibrated

    with Display() as display:
        found = calibrated(ref, task, backbone=backbone, dtype=dtype, alias=alias, table=table, listener=display)
    now, before, rows = found.candidate.calibrated_score, found.candidate.plain_score, len(found.task.dev)
    if as_json:
        dev = {"as it is": before, "calibrated": now, "rows": rows}
        print_json({"prompt": found.stored.ref, "log_prior": found.log_prior, "dev": dev})
        return
    print(f"{found.stored.ref}: {found.task.metric} {now:.3f} on {rows} dev rows; {before:.3f} as it was")
