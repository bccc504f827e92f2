"""Measurement of any strategy: rows → answers → scores. Knows a task's metric; knows no splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from foreword.errors import ForewordError
from foreword.flows.result import Result, Usage
from foreword.flows.strategy import Strategy
from foreword.listen import Count
from foreword.tasks import Row, Task


@dataclass(frozen=True)
class Measured:
    """A strategy's answers to some rows, with their scores and costs."""

    answers: tuple[str, ...]
    """The answers, in the order of the rows."""
    scores: tuple[float, ...]
    """The task's metric for each answer, 0 to 1; higher is better."""
    usage: Usage
    """The usage of all rows together."""
    seconds: tuple[float, ...]
    """The seconds of each row; rows of one batch get equal shares."""

    @property
    def mean(self) -> float:
        """Return the mean score over all rows."""
        return sum(self.scores) / len(self.scores)


def measure(strategy: Strategy, task: Task, rows: Sequence[Row], on_rows: Count | None = None) -> Measured:
    """Answer `rows` and score the answers by the task's metric.

    Raises UsageError, before any row is answered, if a row lacks an input; ForewordError if the strategy returns
    another number of results than there are rows.
    """
    inputs = [strategy.take(row.inputs, row.id) for row in rows]
    results = strategy.batch(inputs, on_rows)
    if not isinstance(results, Sequence) or not all(map(_is_whole, results)):
        raise ForewordError(f"strategy {strategy.name!r} gave {results!r:.80}; its batch returns a list of Results")
    if len(results) != len(rows):
        raise ForewordError(f"strategy {strategy.name!r} gave {len(results)} results for {len(rows)} rows")
    answers = tuple(result.text for result in results)
    return Measured(
        answers,
        tuple(task.score(answers, rows)),
        sum((result.usage for result in results), Usage()),
        tuple(result.seconds for result in results),
    )


def _is_whole(result: object) -> bool:
    """Tell whether `result` is a Result with a text and a finite time, as tables and pages need it."""
    return isinstance(result, Result) and isinstance(result.text, str) and isfinite(result.seconds)
