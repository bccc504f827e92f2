"""`foreword prompts diff`: shows how two prompts differ in words, in vectors and in answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreword.cli import differences
from foreword.cli.console import Display, print_json
from foreword.cli.inputs import Inputs, read_inputs
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl
from foreword.errors import UsageError

if TYPE_CHECKING:
    from foreword.evals import Flips
    from foreword.prompts import Prompt, SoftDiff
    from foreword.table import PromptTable


def diff(
    a: Annotated[
        str,
        typer.Argument(
            help="name, name@alias or name:version; or a .prompt file. With --task also a chain's .yaml file or "
            "FILE.py:FUNCTION, of which the answers alone are compared."
        ),
    ],
    b: Annotated[
        str | None, typer.Argument(help="The other one. Without it, A's newest version and the one before.")
    ] = None,
    inputs: Inputs = [],  # noqa: B006
    rows: Annotated[Path | None, typer.Option("--inputs", help="CSV, JSONL or Parquet: rows to render.")] = None,
    task: Annotated[
        Path | None, typer.Option(help="Task file: show which answers to its dev rows flip. Test rows are not read.")
    ] = None,
    run: Annotated[
        list[Path], typer.Option(help="Folder of the run that made A or B: show how far its vectors moved.")
    ] = [],  # noqa: B006
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two prompts: front matter, text and vectors; rendered rows; answers."""
    from foreword.prompts import diff as diff_prompts
    from foreword.table import find_prompt, find_table

    if b is not None and (_answers_only(a) or _answers_only(b)):
        if task is None or inputs or rows or run:
            raise UsageError("of chains and functions the answers are compared: give --task, and nothing to render")
        flipped = _flips(task, backbone, dtype, (a, b), table)
        if as_json:
            print_json({"a": a, "b": b, "answers": flipped.to_json()})
        else:
            differences.print_flips(flipped)
        return
    store = find_table(table)
    names = _names(a, b, store)
    old, new = (find_prompt(name, store) for name in names)
    difference = diff_prompts(old, new, names)
    vectors = _with_starts(difference.soft, run)
    texts = _render_rows(old, new, names, read_inputs(inputs), rows)
    flips = _flips(task, backbone, dtype, names, table) if task is not None else None
    if as_json:
        document = {"a": names[0], "b": names[1], **difference.to_json(), "rendered": texts}
        print_json(
            document
            | {"vectors": vectors.to_json() if vectors else None, "answers": flips.to_json() if flips else None}
        )
        return
    differences.print_text(difference, names)
    if vectors is not None:
        differences.print_vectors(vectors)
    if texts is not None:
        differences.print_rendered(texts)
    if flips is not None:
        differences.print_flips(flips)


def _names(a: str, b: str | None, store: "PromptTable") -> tuple[str, str]:
    """Return the references of both prompts: a path as it is, a stored prompt as `name:version`."""
    from foreword.table import is_path

    if b is not None:
        first, second = (ref if is_path(ref) else store.find(ref).ref for ref in (a, b))
        return first, second
    if is_path(a) or "@" in a or ":" in a:
        raise UsageError(f"{a!r} is one prompt; give a second one, or a name alone to compare its two newest versions")
    newest = store.list(a, limit=2)
    if len(newest) < 2:
        raise UsageError(f"{a!r} has one version only; give the prompt to compare it with")
    return newest[1].ref, newest[0].ref


def _with_starts(vectors: "SoftDiff | None", folders: Sequence[Path]) -> "SoftDiff | None":
    if not folders:
        return vectors
    from foreword.tuning import start_of

    sides = (vectors.a, vectors.b) if vectors else (None, None)
    for folder in folders:
        starts = [start_of(folder, soft) if soft is not None else None for soft in sides]
        if vectors is None or starts == [None, None]:
            raise UsageError(
                f"the run in {str(folder)!r} made neither of these prompts; give the folder of the run that made one"
            )
        vectors = vectors.with_starts(*starts)
    return vectors


def _render_rows(
    a: "Prompt", b: "Prompt", names: tuple[str, str], row: dict[str, str], file: Path | None
) -> list[dict[str, Any]] | None:
    """Render every row with both prompts; return a document per row, or None if no row is given."""
    from foreword.prompts import rendered
    from foreword.tasks import records

    if not row and file is None:
        return None
    variables = [*dict.fromkeys([*a.variables, *b.variables])]
    for name in row:
        if name not in variables:
            raise UsageError(f"--input {name!r}: neither prompt takes it; they take {variables}")
    named_rows: list[tuple[str, Mapping[str, object]]] = [("--input", row)] if row else []
    needed = [name for name in variables if any(_needs(prompt, name) for prompt in (a, b))]
    named_rows += records(file, needed, variables) if file is not None else []
    return [{"row": where, "text": rendered(a, b, values, where, names)} for where, values in named_rows]


def _needs(prompt: "Prompt", name: str) -> bool:
    return name in prompt.variables and (name not in prompt.specs or prompt.specs[name].default is None)


def _answers_only(ref: str) -> bool:
    """Tell whether `ref` names a chain or a function, which have no one text to compare."""
    return ref.endswith((".yaml", ".yml")) or ".py:" in ref


def _flips(task: Path, backbone: str, dtype: str, refs: tuple[str, str], table: str | None) -> "Flips":
    from foreword.jobs import diff_on_task

    with Display() as display:
        return diff_on_task(task, *refs, backbone=backbone, dtype=dtype, table=table, listener=display)
