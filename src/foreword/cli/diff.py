"""`foreword prompts diff`: what turns one prompt into another, in words, in vectors, and in answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreword.cli.console import Display, print_json, print_table
from foreword.cli.shared import (
    DEFAULT_BACKBONE,
    BackboneName,
    Dtype,
    Json,
    TableUrl,
    find_prompt,
    is_path,
    load_model,
    read_inputs,
)
from foreword.errors import UsageError

if TYPE_CHECKING:
    from foreword.evals.flips import Flips
    from foreword.prompts import Prompt
    from foreword.prompts.diff import Diff
    from foreword.prompts.vector_diff import SoftDiff, Token
    from foreword.table import PromptTable

SHOWN = 3
"""Rows of a kind that people are shown; `--json` has all."""
TOKENS = 16
"""Virtual tokens that people are shown."""
BAR = 16
STYLES = {"+": "green", "-": "red", "@": "cyan"}
KINDS = {
    False: {"better": "wrong → right", "worse": "right → wrong", "changed": "wrong in another way"},
    True: {"better": "better", "worse": "worse", "changed": "as far off in another way"},
}
"""Whether answers are graded; what each kind of flip is called."""


def diff(
    a: Annotated[str, typer.Argument(help="name, name@alias or name:version; or a .prompt file.")],
    b: Annotated[
        str | None, typer.Argument(help="The other one. Without it, A's newest version and the one before.")
    ] = None,
    inputs: Annotated[list[str], typer.Option("--input", "-i", help="name=value; a row to render both with.")] = [],  # noqa: B006
    rows: Annotated[Path | None, typer.Option("--inputs", help="CSV, JSONL or Parquet: rows to render.")] = None,
    task: Annotated[
        Path | None, typer.Option(help="Task file: which answers to its dev rows flip. Test rows stay closed.")
    ] = None,
    run: Annotated[
        list[Path], typer.Option(help="Folder of the run that made A or B: how far it has gone from its start.")
    ] = [],  # noqa: B006
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """What differs between two prompts: front matter, text, vectors; rendered rows; answers."""
    from foreword.prompts.diff import diff as compared
    from foreword.table import PromptTable

    store = PromptTable.open(table)
    names = _names(a, b, store)
    old, new = (find_prompt(name, store) for name in names)
    found = compared(old, new, names)
    vectors = _with_starts(found.soft, run)
    texts = _rendered(old, new, names, read_inputs(inputs), rows)
    flipped = _flips(task, backbone, dtype, old, new, names) if task is not None else None
    if as_json:
        document = {"a": names[0], "b": names[1], **found.to_json(), "rendered": texts}
        print_json(
            document
            | {"vectors": vectors.to_json() if vectors else None, "answers": flipped.to_json() if flipped else None}
        )
        return
    _print_text(found, names)
    if vectors is not None:
        _print_vectors(vectors)
    if texts is not None:
        _print_rendered(texts)
    if flipped is not None:
        _print_flips(flipped)


def _names(a: str, b: str | None, store: "PromptTable") -> tuple[str, str]:
    """Files as they are given, stored prompts as `name:version`."""
    if b is not None:
        first, second = (ref if is_path(ref) else store.find(ref).ref for ref in (a, b))
        return first, second
    if is_path(a) or "@" in a or ":" in a:
        raise UsageError(f"{a!r} is one prompt; give the other one too, or a name alone: its two newest versions")
    newest = store.list(a)[:2]
    if len(newest) < 2:
        raise UsageError(f"{a!r} has one version only; give the prompt to compare it with")
    return newest[1].ref, newest[0].ref


def _with_starts(found: "SoftDiff | None", folders: Sequence[Path]) -> "SoftDiff | None":
    if not folders:
        return found
    from foreword.tuning.record import start_of

    sides = (found.a, found.b) if found else (None, None)
    for folder in folders:
        starts = [start_of(folder, soft) if soft is not None else None for soft in sides]
        if found is None or starts == [None, None]:
            raise UsageError(f"the run in {str(folder)!r} made neither prompt as it is here")
        found = found.with_starts(*starts)
    return found


def _rendered(
    a: "Prompt", b: "Prompt", names: tuple[str, str], row: dict[str, str], file: Path | None
) -> list[dict[str, Any]] | None:
    """A document for each row on which both are rendered; None where there is no row."""
    from foreword.prompts.diff import rendered
    from foreword.tasks.sources import records

    if not row and file is None:
        return None
    taken = [*dict.fromkeys([*a.variables, *b.variables])]
    for name in row:
        if name not in taken:
            raise UsageError(f"--input {name!r}: neither prompt takes it; they take {taken}")
    read: list[tuple[str, Mapping[str, object]]] = [("--input", row)] if row else []
    read += records(file, taken) if file is not None else []
    return [
        {
            "row": where,
            "inputs": {name: values[name] for name in taken if name in values},
            "text": rendered(a, b, values, where, names),
        }
        for where, values in read
    ]


def _flips(task: Path, backbone: str, dtype: str, a: "Prompt", b: "Prompt", names: tuple[str, str]) -> "Flips":
    from foreword.cli.tune import load_task
    from foreword.evals.flips import flips

    with Display() as display:
        data = load_task(task, display)
        return flips(load_model(backbone, dtype, display), data, a, b, names, display.stage)


def _print_text(found: "Diff", names: tuple[str, str]) -> None:
    from foreword.prompts.diff import visible

    if found.same:
        print(f"{names[0]} and {names[1]} are the same.")
        return
    _print_lines([f"{names[0]} (A) → {names[1]} (B)"], "bold")
    if not found.fields and not found.text:
        print("Front matter and text are the same.")
    _print_lines(map(str, found.fields), "yellow")
    _print_diff(map(visible, found.text))


def _print_diff(lines: Any) -> None:
    for line in lines:
        _print_lines([line], "bold" if line.startswith(("--- ", "+++ ")) else STYLES.get(line[:1], ""))


def _print_lines(lines: Any, style: str) -> None:
    """Each line whole, with colour where stdout is a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    for line in lines:
        console.print(Text(line, style), soft_wrap=True)


def _print_vectors(found: "SoftDiff") -> None:
    from rich.table import Table

    from foreword.prompts.diff import visible
    from foreword.prompts.vector_diff import facts

    sides = [facts(soft) or {} for soft in (found.a, found.b)]
    shown = Table("vectors", "A", "B", box=None, pad_edge=False)
    for field in ("method", "backbone", "run", "trained_parameters", "virtual_tokens"):
        shown.add_row(field.replace("_", " "), *(visible(str(side.get(field) or "–")) for side in sides))
    print()
    print_table(shown)
    if found.reason:
        print(f"\nNot compared token by token: {visible(found.reason)}.")
    for name, tokens in found.tensors.items():
        print()
        _print_tokens(name, tokens)


def _print_tokens(name: str, tokens: "Sequence[Token]") -> None:
    """A table of one tensor, the tokens that are farthest apart where there are many."""
    from rich.table import Table

    apart = {token.index: token.apart.distance for token in tokens if token.apart}
    farthest = sorted(tokens, key=lambda token: -apart.get(token.index, 0.0))[:TOKENS]
    most = max(apart.values(), default=0.0)
    heads = [name, "norm A", "norm B", "cosine", "distance", ""]
    moved = [side for side in "ab" if any(getattr(token, f"moved_{side}") for token in tokens)]
    heads += [f"{side.upper()} from its start" for side in moved]
    shown = Table(*heads, box=None, pad_edge=False)
    for column in shown.columns[:5]:
        column.justify = "right"
    for token in sorted(farthest, key=lambda token: token.index):
        distance = apart.get(token.index)
        starts = [getattr(token, f"moved_{side}") for side in moved]
        shown.add_row(
            str(token.index),
            *(_number(value) for value in (token.norm_a, token.norm_b)),
            _number(token.apart.cosine if token.apart else None),
            _number(distance),
            "█" * round(BAR * distance / most) if distance and most else "",
            *(f"cosine {_number(start.cosine)}, {_number(start.distance)}" if start else "–" for start in starts),
        )
    print_table(shown)
    if len(tokens) > TOKENS:
        print(f"{TOKENS} of {len(tokens)} tokens, those farthest apart; --json has all.")


def _print_rendered(texts: list[dict[str, Any]]) -> None:
    from foreword.prompts.diff import visible

    differing = [text for text in texts if text["text"]]
    print(f"\nRendered: {len(differing)} of {len(texts)} rows differ.")
    for text in differing[:SHOWN]:
        _print_lines([text["row"]], "bold")
        _print_diff(map(visible, text["text"]))


def _print_flips(found: "Flips") -> None:
    from rich.table import Table
    from rich.text import Text

    from foreword.evals.wording import p_text
    from foreword.prompts.diff import visible

    scale, gap = found.scale, found.difference
    print(f"\nAnswers to {found.rows:,} dev rows of {found.task}; the test rows stay closed.")
    for side, value in (("A", found.a), ("B", found.b)):
        print(f"{side}: {scale.label} {scale.value(value.value)} (95 % interval {scale.span(value.low, value.high)})")
    print(
        f"B minus A: {scale.signed(gap.value)}{'' if found.graded else ' points'} "
        f"(95 % interval {scale.span(gap.low, gap.high)}; {gap.test}, {p_text(gap.p_value)})"
    )
    words = KINDS[found.graded]
    print(", ".join(f"{len(found.of(kind)):,} {word}" for kind, word in words.items()))
    shown = Table("flip", "row", "target", "A", "B", "inputs", box=None, pad_edge=False)
    for kind, word in words.items():
        for flip in found.of(kind)[:SHOWN]:
            told = [flip.row.id, flip.row.target, flip.a, flip.b, " | ".join(flip.row.inputs.values())]
            shown.add_row(word, *(Text(_cut(visible(text))) for text in told))
    if found.flips:
        print_table(shown)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
