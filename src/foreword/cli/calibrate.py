"""`foreword prompts calibrate`: take a model's leaning to some choices off, and store the prompt so."""

from pathlib import Path
from typing import Annotated

import typer

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
from foreword.errors import UsageError


def calibrate(
    ref: Annotated[str, typer.Argument(metavar="PROMPT", help="A prompt with choices: a .prompt file or a name.")],
    task: Annotated[Path, typer.Option(help="Its first 200 training rows are read, without their labels.")],
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Store a version that answers without the model's leaning, as 'compare' measures it where dev says so.

    A small model may prefer one choice whatever it reads. How much is measured and becomes part of the prompt.
    """
    from foreword.cli.tasks import load_task
    from foreword.evals import evaluate_on_dev
    from foreword.table import PromptTable

    store = PromptTable.open(table)
    prompt = find_prompt(ref, store).without_prior()
    with Display() as display:
        data = load_task(task, display)
        model = load_backbone(backbone, dtype, display)
        model.check(prompt)
        [found] = evaluate_on_dev(model, data, [prompt], display)
    if found.calibrated is None or found.calibrated_score is None:
        raise UsageError(f"{ref!r} has no choices, so there is nothing to calibrate; give its task 'choices'")
    origin = {"calibrated on": model.name, "task": data.name, "data": data.data_hash}
    stored = store.put(found.calibrated, alias, f"calibrated on {data.name}", stored_as(ref, store), origin)
    if as_json:
        dev = {"as it is": found.plain_score, "calibrated": found.calibrated_score, "rows": len(data.dev)}
        print_json({"prompt": stored.ref, "log_prior": found.calibrated.output.log_prior, "dev": dev})
        return
    now, before, rows = found.calibrated_score, found.plain_score, len(data.dev)
    print(f"{stored.ref}: {data.metric} {now:.3f} on {rows} dev rows; {before:.3f} as it was")
