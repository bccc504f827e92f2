"""`foreword optimize`: searches for better words and demonstrations, and stores them as the prompt's next version."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl


def optimize(
    prompt: Annotated[
        str,
        typer.Argument(
            help="The hard prompt to begin from: a .prompt file or a name in the table; or the .yaml file of a chain, "
            "whose answering step is searched."
        ),
    ],
    task: Annotated[Path, typer.Option(help="The task file (YAML).")],
    budget: Annotated[
        str, typer.Option(help="How long to search: 2000calls (rows answered), 90s, 10m or 1.5h.")
    ] = "2000calls",
    proposer: Annotated[
        str | None,
        typer.Option(
            help="Model that rewords the instruction: backbone, or openai:URL#model, which is sent training rows."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder that keeps every measurement: the same call again resumes the search.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to give the stored version.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Search for an instruction and demonstrations that score higher on a task than a prompt's own.

    They are chosen on dev and measured once on test. Ctrl-C ends the search and keeps the best so far.
    """
    from foreword.jobs import optimize as search

    with Display() as display:
        searched = search(
            prompt, task, backbone=backbone, dtype=dtype, budget=budget, proposer=proposer, seed=seed, out=out,
            alias=alias, table=table, listener=display,
        )  # fmt: skip
    if as_json:
        print_json(searched.to_json())
        return
    outcome = searched.outcome
    print(f"dev {outcome.start_dev:.3f} before, {outcome.dev:.3f} after (which it was chosen on)\n{outcome.verdict}")
    if searched.ref is not None:
        print(searched.ref)
