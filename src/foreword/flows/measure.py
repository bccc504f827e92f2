"""Rows → answers → scores, for any strategy and any rows of a task. Chooses nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from foreword.errors import ForewordError
from foreword.flows.result import Usage
from foreword.flows.strategy import Strategy
from foreword.listen import Count
from foreword.tasks import Row, Task


@dataclass(frozen=True)
class Measured:
    """What a strategy answered to some rows, and how well."""

    answers: tuple[str, ...]
    """In the order of the rows."""
    scores: tuple[float, ...]
    """The task's metric for each answer, 0 to 1; higher is better."""
    usage: Usage
    """Of all rows together."""
    seconds: tuple[float, ...]
    """Of each row; of rows that were answered together, equal shares."""

    @property
    def mean(self) -> float:
        """The metric over all rows."""
        return sum(self.scores) / len(self.scores)


def measure(strategy: Strategy, task: Task, rows: Sequence[Row], on_rows: Count | None = None) -> Measured:
    """Answer `rows` and score the answers by the task's metric.

    Raises UsageError that names the row where one lacks an input, before any is answered; ForewordError where the
    strategy gives another number of results than there are rows.
    """
    inputs = [strategy.take(row.inputs, row.id) for row in rows]
    results = strategy.batch(inputs, on_rows)
    if len(results) != len(rows):
        raise ForewordError(f"strategy {strategy.name!r} gave {len(results)} results for {len(rows)} rows")
    answers = tuple(result.text for result in results)
    return Measured(
        answers,
        tuple(task.score(answers, rows)),
        sum((result.usage for result in results), Usage()),
        tuple(result.seconds for result in results),
    )
