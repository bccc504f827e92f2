"""Prints a diff for people: coloured lines, a table of tokens, a table of flips. Knows no files and no prompt table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foreword.cli.console import print_table

if TYPE_CHECKING:
    from foreword.evals import Flips
    from foreword.prompts import Diff, SoftDiff, Token

SHOWN = 3
"""The most rows of a kind that are printed; `--json` has all."""
TOKENS = 16
"""The most virtual tokens that are printed."""
BAR = 16
STYLES = {"+": "green", "-": "red", "@": "cyan"}
KINDS = {
    False: {"better": "wrong → right", "worse": "right → wrong", "changed": "wrong in another way"},
    True: {"better": "better", "worse": "worse", "changed": "as far off in another way"},
}
"""The words for each kind of flip, by whether scores are graded."""


def print_text(difference: "Diff", names: tuple[str, str]) -> None:
    """Print how front matter and text differ."""
    from foreword.prompts import visible

    if difference.same:
        print(f"{names[0]} and {names[1]} are the same.")
        return
    _print_lines([f"{names[0]} (A) → {names[1]} (B)"], "bold")
    if not difference.fields and not difference.text:
        print("Front matter and text are the same.")
    _print_lines(map(str, difference.fields), "yellow")
    _print_diff(map(visible, difference.text))


def _print_diff(lines: Any) -> None:
    for line in lines:
        _print_lines([line], "bold" if line.startswith(("--- ", "+++ ")) else STYLES.get(line[:1], ""))


def _print_lines(lines: Any, style: str) -> None:
    """Print each line unwrapped, in colour if stdout is a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    for line in lines:
        console.print(Text(line, style), soft_wrap=True)


def print_vectors(difference: "SoftDiff") -> None:
    """Print how the vectors differ, token by token."""
    from rich.table import Table

    from foreword.prompts import vector_facts, visible

    sides = [vector_facts(soft) or {} for soft in (difference.a, difference.b)]
    table = Table("vectors", "A", "B", box=None, pad_edge=False)
    for field in ("method", "backbone", "run", "trained_parameters", "virtual_tokens"):
        table.add_row(field.replace("_", " "), *(visible(str(side.get(field) or "–")) for side in sides))
    print()
    print_table(table)
    if difference.reason:
        print(f"\nNot compared token by token: {visible(difference.reason)}.")
    for name, tokens in difference.tensors.items():
        print()
        _print_tokens(name, tokens)


def _print_tokens(name: str, tokens: "Sequence[Token]") -> None:
    """Print a table of one tensor: its tokens, or if there are many those that are farthest apart."""
    from rich.table import Table

    apart = {token.index: token.apart.distance for token in tokens if token.apart}
    farthest = sorted(tokens, key=lambda token: -apart.get(token.index, 0.0))[:TOKENS]
    most = max(apart.values(), default=0.0)
    headings = [name, "norm A", "norm B", "cosine", "distance", ""]
    moved = [side for side in "ab" if any(getattr(token, f"moved_{side}") for token in tokens)]
    headings += [f"{side.upper()} from its start" for side in moved]
    table = Table(*headings, box=None, pad_edge=False)
    for column in table.columns[:5]:
        column.justify = "right"
    for token in sorted(farthest, key=lambda token: token.index):
        distance = apart.get(token.index)
        starts = [getattr(token, f"moved_{side}") for side in moved]
        table.add_row(
            str(token.index),
            *(_number(value) for value in (token.norm_a, token.norm_b)),
            _number(token.apart.cosine if token.apart else None),
            _number(distance),
            "█" * round(BAR * distance / most) if distance and most else "",
            *(f"cosine {_number(start.cosine)}, {_number(start.distance)}" if start else "–" for start in starts),
        )
    print_table(table)
    if len(tokens) > TOKENS:
        print(f"{TOKENS} of {len(tokens)} tokens, those farthest apart; --json has all.")


def print_rendered(texts: list[dict[str, Any]]) -> None:
    """Print on how many rows the rendered texts differ, and the first of them."""
    from foreword.prompts import visible

    differing = [text for text in texts if text["text"]]
    print(f"\nRendered: {len(differing)} of {len(texts)} rows differ.")
    for text in differing[:SHOWN]:
        _print_lines([text["row"]], "bold")
        _print_diff(map(visible, text["text"]))


def print_flips(flips: "Flips") -> None:
    """Print both scores, their difference and the first flips of each kind."""
    from rich.table import Table
    from rich.text import Text

    from foreword.evals import p_text
    from foreword.prompts import visible

    scale, gap = flips.scale, flips.difference
    print(f"\nAnswers to {flips.rows:,} dev rows of {flips.task}; the test rows are not read.")
    for side, value in (("A", flips.a), ("B", flips.b)):
        print(f"{side}: {scale.label} {scale.value(value.value)} (95 % interval {scale.span(value.low, value.high)})")
    print(
        f"B minus A: {scale.signed(gap.value)}{'' if flips.graded else ' points'} "
        f"(95 % interval {scale.span(gap.low, gap.high)}; {gap.test}, {p_text(gap.p_value)})"
    )
    words = KINDS[flips.graded]
    print(", ".join(f"{len(flips.of(kind)):,} {word}" for kind, word in words.items()))
    table = Table("flip", "row", "target", "A", "B", "inputs", box=None, pad_edge=False)
    for kind, word in words.items():
        for flip in flips.of(kind)[:SHOWN]:
            cells = [flip.row.id, flip.row.target, flip.a, flip.b, " | ".join(flip.row.inputs.values())]
            table.add_row(word, *(Text(_shorten(visible(text))) for text in cells))
    if flips.flips:
        print_table(table)


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
