"""The data of a comparison: every strategy's scores per test row, their intervals, and the verdict.

Knows scores and how they are written; knows no models and no prompts.
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
    """The answers, scores and costs of one strategy on the test rows."""

    name: str
    kind: Kind
    predictions: tuple[str, ...]
    """The answers, in row order."""
    scores: tuple[float, ...]
    """The metric for each answer, in row order; higher is better."""
    tokens_per_request: float
    """The mean tokens that the backbone reads per row, virtual tokens included; 0 without a backbone."""
    ms_per_request: float
    """The median time of a single request, in milliseconds."""
    trained_parameters: int
    rows: int
    """The labelled training rows that the strategy was made from."""
    detail: str = ""
    """One line that says what the strategy is."""
    curve: tuple[CurvePoint, ...] = ()
    calibrated: bool = False
    """Whether the model's label bias is subtracted."""
    computed_tokens_per_request: float = 0.0
    """The mean tokens computed per row: a cached prefix does not count, scored choices and answers do."""
    calls_per_request: float = 0.0
    """The mean model calls per row."""

    @property
    def mean(self) -> float:
        """Return the mean score over all test rows."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class Comparison:
    """The mean score of strategy `a` minus that of `b` on the same rows, with its 95 % interval and raw p-value."""

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
    """The numbers and words of a finished comparison; `Result`, which extends it, can save them."""

    task: str
    backbone: str
    seed: int
    metric: str
    rows: tuple[Row, ...]
    strategies: tuple[StrategyResult, ...]
    comparisons: tuple[Comparison, ...]
    """The comparison of every other strategy with the reference, in the order of `strategies`."""
    verdict: str
    reference: str
    """The strategy that the others are compared with: the best hard prompt, chosen on dev."""
    notes: tuple[str, ...] = ()
    settings: Mapping[str, str | int | float] = field(default_factory=dict)

    @cached_property
    def scale(self) -> Scale:
        """Return how values of this metric are written."""
        return Scale(self.metric, graded=not all(is_right_or_wrong(s.scores) for s in self.strategies))

    @cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """Return each strategy's mean score with its 95 % interval: Wilson for 0 or 1, bootstrap for graded scores."""
        if self.scale.graded:
            return {s.name: bootstrap_mean(s.scores, seed=self.seed) for s in self.strategies}
        return {s.name: wilson(round(sum(s.scores)), len(s.scores)) for s in self.strategies}

    @cached_property
    def smallest_difference(self) -> float | None:
        """Return the smallest difference to the reference that these rows can show with 80 % power, as a share.

        It is 1.0 if they can show none, and None if scores are graded.
        """
        if self.scale.graded:
            return None
        return smallest_difference(len(self.rows), min(max(self.strategy(self.reference).mean, 0.05), 0.95))

    def strategy(self, name: str) -> StrategyResult:
        """Return the strategy named `name`. Raises UsageError if there is none."""
        for strategy in self.strategies:
            if strategy.name == name:
                return strategy
        raise UsageError(f"no strategy {name!r} in this result; it has {', '.join(s.name for s in self.strategies)}")

    def comparison(self, name: str) -> Comparison | None:
        """Return the comparison of strategy `name` with the reference; None for the reference itself."""
        return next((c for c in self.comparisons if c.a == name and c.b == self.reference), None)

    def to_json(self) -> dict[str, Any]:
        """Return the stable machine-readable form; keys may be added, never changed."""
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
        """Return the strategies side by side, as a table for a terminal."""
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
