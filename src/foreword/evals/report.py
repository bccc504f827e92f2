"""The report of a comparison as one self-contained HTML page: opens offline, runs no script, escapes every text.

Knows a `Result` and what a reader asks of it: how sure, at what cost, where the answers differ, how it was measured.
Knows no model.
"""

from collections import Counter
from dataclasses import dataclass
from importlib import resources

from foreword.evals.charts import KINDS, accuracy_chart, cost_chart, curves_chart
from foreword.evals.result import ResultData, StrategyResult
from foreword.evals.wording import count, number, p_text

ROWS_SHOWN = 10
PAIRS_SHOWN = 15
SMALL_MATRIX, MATRIX_LABELS = 10, 30
"""With more labels than the first number only two matrices are shown; with more than the second, a list of pairs."""
OTHER = "(other)"
"""The column of answers that are none of the labels."""
CLIP, WHOLE = 300, 4_000
"""The characters of a text that are shown at first, and after it is opened; a page stays small enough to mail."""


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix of one strategy: a row of counts per true label, a column per answer."""

    name: str
    columns: list[str]
    cells: list[tuple[str, list[int]]]


@dataclass(frozen=True)
class Confusion:
    """A wrong answer that was given more than once, with how often each prompt gave it."""

    target: str
    answer: str
    counts: list[int]


@dataclass(frozen=True)
class Text:
    """A text of any length, clipped for the page."""

    head: str
    whole: str
    left_out: int


@dataclass(frozen=True)
class Disagreement:
    """A test row on which the strategies score differently."""

    id: str
    inputs: list[tuple[str, Text]]
    target: Text
    answers: list[tuple[str, Text, float]]


def render_report(result: ResultData) -> str:
    """Return the page as HTML; the same result gives the same bytes."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(count=count, number=number, p_text=p_text)
    page = environment.from_string(resources.files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    curves = curves_chart(result)
    rival = _rival(result)
    prompts = [s for s in result.strategies if s.kind in ("hard", "soft")]
    base = result.strategy(result.reference)
    return page.render(
        result=result,
        scale=result.scale,
        kinds=KINDS,
        ranked=sorted(result.strategies, key=lambda s: -s.mean),
        accuracy=Markup(accuracy_chart(result)),
        cost=Markup(cost_chart(result)),
        curves=Markup(curves) if curves else None,
        matrices=_matrices(result, rival),
        prompts=prompts,
        confusions=_confusions(result, prompts),
        base=base,
        rival=rival,
        split=_count_wins(base, rival) if rival else None,
        differences=_disagreements(result, rival) if rival else [],
        smallest=result.smallest_difference,
        tests=sorted({c.test for c in result.comparisons}),
    )


def _rival(result: ResultData) -> StrategyResult | None:
    """Return the strategy to read beside the reference: the best soft prompt, or else the best other strategy."""
    others = [s for s in result.strategies if s.name != result.reference]
    return max(others, key=lambda s: (s.kind == "soft", s.mean), default=None)


def _labels(result: ResultData) -> list[str]:
    """Return the task's labels; none if targets are free text, which seldom repeats, or if scores are graded."""
    labels = sorted({row.target for row in result.rows})
    return labels if 2 * len(labels) <= len(result.rows) and not result.scale.graded else []


def _matrices(result: ResultData, rival: StrategyResult | None) -> list[Matrix]:
    labels = _labels(result)
    if not 2 <= len(labels) <= MATRIX_LABELS:
        return []
    drawn = [s for s in result.strategies if s.kind in ("baseline", "hard", "soft", "lora")]
    if len(labels) > SMALL_MATRIX:  # a page of them would be skipped: only those that the verdict speaks of
        drawn = [s for s in drawn if s is rival or s.name == result.reference]
    other = any(answer not in labels for s in drawn for answer in s.predictions)
    return [_matrix(result, s, [*labels, OTHER] if other else labels) for s in drawn]


def _matrix(result: ResultData, strategy: StrategyResult, columns: list[str]) -> Matrix:
    known = set(columns)
    seen = Counter(
        (row.target, answer if answer in known else OTHER)
        for row, answer in zip(result.rows, strategy.predictions, strict=True)
    )
    cells = [(label, [seen[label, answer] for answer in columns]) for label in columns if label != OTHER]
    return Matrix(strategy.name, columns, cells)


def _confusions(result: ResultData, prompts: list[StrategyResult]) -> list[Confusion]:
    if len(_labels(result)) <= MATRIX_LABELS:
        return []
    seen = [
        Counter(
            (row.target, answer)
            for row, answer, score in zip(result.rows, s.predictions, s.scores, strict=True)
            if not score
        )
        for s in prompts
    ]
    total: Counter[tuple[str, str]] = sum(seen, Counter())
    ranked = sorted((-times, pair) for pair, times in total.items() if times > 1)
    return [Confusion(*pair, [counts[pair] for counts in seen]) for _, pair in ranked[:PAIRS_SHOWN]]


def _count_wins(base: StrategyResult, rival: StrategyResult) -> tuple[int, int]:
    """Count the rows on which the rival scores higher, and those on which the reference does."""
    pairs = list(zip(rival.scores, base.scores, strict=True))
    return sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)


def _disagreements(result: ResultData, rival: StrategyResult) -> list[Disagreement]:
    """Return the rows on which scores differ most, half of them won by the rival and half by the reference."""
    base = result.strategy(result.reference)

    def spread(index: int) -> float:
        scores = [s.scores[index] for s in result.strategies]
        mean = sum(scores) / len(scores)
        return sum((score - mean) ** 2 for score in scores)

    def gap(index: int) -> float:
        return rival.scores[index] - base.scores[index]

    order = sorted(range(len(result.rows)), key=lambda i: (-abs(gap(i)), -spread(i), i))
    won, lost = [i for i in order if gap(i) > 0], [i for i in order if gap(i) < 0]
    half = ROWS_SHOWN // 2
    chosen = won[: max(half, ROWS_SHOWN - len(lost))] + lost[: max(half, ROWS_SHOWN - len(won))]
    tied = [i for i in order if gap(i) == 0 and spread(i) > 0]
    chosen += tied[: ROWS_SHOWN - len(chosen)]
    return [_disagreement(result, i) for i in sorted(chosen)]


def _disagreement(result: ResultData, index: int) -> Disagreement:
    row = result.rows[index]
    return Disagreement(
        row.id,
        [(name, _clip(value)) for name, value in row.inputs.items()],
        _clip(row.target),
        [(s.name, _clip(s.predictions[index]), s.scores[index]) for s in result.strategies],
    )


def _clip(text: str) -> Text:
    head = text if len(text) <= CLIP else text[:CLIP].rstrip() + " …"
    return Text(head, text[:WHOLE], max(0, len(text) - WHOLE))
