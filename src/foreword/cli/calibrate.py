"""`foreword prompts calibrate`: subtracts a model's label bias, and stores the calibrated prompt."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl


def calibrate(
    ref: Annotated[str, typer.Argument(metavar="PROMPT", help="A prompt with choices: a .prompt file or a name.")],
    task: Annotated[Path, typer.Option(help="Task file: its first 200 training rows are read, without their labels.")],
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Store a calibrated version of a prompt: one that answers without the model's label bias.

    A small model may prefer one choice whatever it reads. That label bias is measured on unlabelled rows and stored in
    the prompt. 'compare' calibrates in the same way, if that scores higher on dev.
    """
    from foreword.jobs import calibrate as job

    with Display() as display:
        calibrated = job(ref, task, backbone=backbone, dtype=dtype, alias=alias, table=table, listener=display)
    after, before, rows = (
        calibrated.candidate.calibrated_score,
        calibrated.candidate.plain_score,
        len(calibrated.task.dev),
    )
    if as_json:
        dev = {"as it is": before, "calibrated": after, "rows": rows}
        print_json({"prompt": calibrated.stored.ref, "log_prior": calibrated.log_prior, "dev": dev})
        return
    print(f"{calibrated.stored.ref}: {calibrated.task.metric} {after:.3f} on {rows} dev rows; {before:.3f} as it was")
