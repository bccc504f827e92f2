"""What a comparison found: every strategy's scores per test row, their intervals, and the verdict in one sentence.

Knows nothing of models or prompts: the scores come in, and nothing here chooses anything but words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foreword.errors import UsageError
from foreword.evals.statistics import (
    Interval,
    bootstrap_mean,
    is_right_or_wrong,
    smallest_difference,
    wilson,
)
from foreword.evals.wording import Scale, count, number, p_text
from foreword.flows import Kind
from foreword.tasks import Row
from foreword.tuning import CurvePoint

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class StrategyResult:
    """How one strategy did on the test rows."""

    name: str
    kind: Kind
    predictions: tuple[str, ...]
    """Its answers, in row order."""
    scores: tuple[float, ...]
    """The metric for each answer, in row order; higher is better."""
    tokens_per_request: float
    """Mean tokens that the backbone reads per row, virtual ones counted; 0 without a backbone."""
    ms_per_request: float
    """Median of single requests, in milliseconds."""
    trained_parameters: int
    rows: int
    """Labelled training rows that it used."""
    detail: str = ""
    """One line: the prompt's reference, or what the strategy is."""
    curve: tuple[CurvePoint, ...] = ()
    calibrated: bool = False
    """Whether the model's label bias was taken off."""
    computed_tokens_per_request: float = 0.0
    """Mean tokens per row that had to be computed: a cached prefix is not counted, scored choices and answers are."""
    calls_per_request: float = 0.0
    """Mean calls of a model per row."""

    @property
    def mean(self) -> float:
        """The metric over all test rows."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Comparison:
    """Strategy `a` minus strategy `b` on the same rows, with a 95 % interval; the p-value is not adjusted."""

    a: str
    b: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    test: str


@dataclass(frozen=True)
class ResultData:
    """A finished comparison: its numbers and words. What writes it down stands above it, in `Result`."""

    task: str
    backbone: str
    seed: int
    metric: str
    rows: tuple[Row, ...]
    strategies: tuple[StrategyResult, ...]
    comparisons: tuple[Comparison, ...]
    """Every other strategy against the reference, in the order of `strategies`."""
    verdict: str
    reference: str
    """The strategy that the others are compared with: the best hard prompt, chosen on dev."""
    notes: tuple[str, ...] = ()
    settings: Mapping[str, str | int | float] = field(default_factory=dict)

    @cached_property
    def scale(self) -> Scale:
        """How this result's numbers are written."""
        return Scale(self.metric, graded=not all(is_right_or_wrong(s.scores) for s in self.strategies))

    @cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """Each strategy's metric with its 95 % interval: Wilson for right or wrong, bootstrap for graded scores."""
        if self.scale.graded:
            return {s.name: bootstrap_mean(s.scores, seed=self.seed) for s in self.strategies}
        return {s.name: wilson(round(sum(s.scores)), len(s.scores)) for s in self.strategies}

    @cached_property
    def smallest_difference(self) -> float | None:
        """The smallest difference to the reference that these rows can show, as a share; 1.0 where they show none, None
        where scores are graded.
        """
        if self.scale.graded:
            return None
        return smallest_difference(len(self.rows), min(max(self.strategy(self.reference).mean, 0.05), 0.95))

    def strategy(self, name: str) -> StrategyResult:
        """The strategy of that name. Raises UsageError."""
        for strategy in self.strategies:
            if strategy.name == name:
                return strategy
        raise UsageError(f"no strategy {name!r} in this result; it has {', '.join(s.name for s in self.strategies)}")

    def comparison(self, name: str) -> Comparison | None:
        """That strategy against the reference; None for the reference itself."""
        return next((c for c in self.comparisons if c.a == name and c.b == self.reference), None)

    def to_json(self) -> dict[str, Any]:
        """The stable machine-readable shape; keys may be added, never changed."""
        return {
            "task": self.task,
            "backbone": self.backbone,
            "seed": self.seed,
            "strategies": [
                {
                    "name": s.name,
                    "kind": s.kind,
                    "metrics": {self.metric: vars(self.intervals[s.name]).copy()},
                    "tokens_per_request": s.tokens_per_request,
                    "ms_per_request": s.ms_per_request,
                    "trained_parameters": s.trained_parameters,
                    "rows": s.rows,
                    "detail": s.detail,
                    "computed_tokens_per_request": s.computed_tokens_per_request,
                    "calls_per_request": s.calls_per_request,
                }
                for s in self.strategies
            ],
            "comparisons": [vars(c).copy() for c in self.comparisons],
            "verdict": self.verdict,
            "reference": self.reference,
            "test_rows": len(self.rows),
            "notes": list(self.notes),
            "settings": dict(self.settings),
        }

    def table(self) -> "Table":
        """The strategies side by side, for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"{self.task} on {self.backbone}"), caption=Text(self.verdict, justify="left"))
        table.add_column("strategy", overflow="fold")
        for heading in (
            f"{self.scale.label} (95 % interval)",
            "difference to the reference",
            "tokens/\nrequest",
            "computed/\nrequest",
            "ms/\nrequest",
            "trained\nparameters",
            "training\nrows",
        ):
            table.add_column(Text(heading), justify="right")
        for s in self.strategies:
            interval, against = self.intervals[s.name], self.comparison(s.name)
            table.add_row(
                Text(
                    f"{s.name}, calibrated" if s.calibrated else s.name
                ),  # Text, because a name may hold what rich would take for markup
                f"{self.scale.value(interval.value)} ({self.scale.span(interval.low, interval.high)})",
                f"{self.scale.signed(against.difference)} ({p_text(against.p_value)})" if against else "reference",
                count(s.tokens_per_request),
                count(s.computed_tokens_per_request),
                count(s.ms_per_request),
                number(s.trained_parameters),
                number(s.rows),
            )
        return table
