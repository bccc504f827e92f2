"""Paired comparison of two strategies on dev: which answers flip, and is one better? Knows no test rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foreword.backbone import LanguageModel
from foreword.errors import ForewordError
from foreword.evals.statistics import Difference, Interval, is_right_or_wrong, paired_difference, score_interval
from foreword.evals.wording import Scale
from foreword.flows import Answers, Measured, bind, measure
from foreword.listen import SILENT, Listener, counter
from foreword.tasks import Row, Task


@dataclass(frozen=True)
class Flip:
    """A row on which B's score differs from A's, or on which both are wrong in different ways."""

    row: Row
    a: str
    b: str
    kind: Literal["worse", "better", "changed"]
    """How B does beside A: it scores lower (`worse`), higher (`better`), or errs in another way (`changed`)."""


@dataclass(frozen=True)
class Flips:
    """What changes on a task's dev rows when strategy B replaces strategy A."""

    task: str
    metric: str
    rows: int
    a: Interval
    b: Interval
    difference: Difference
    """The mean of B minus that of A, with a paired test: exact McNemar if scores are 0 or 1, else a permutation."""
    graded: bool
    flips: tuple[Flip, ...]
    """The rows that flip, in the order of the dev rows."""

    def of(self, kind: str) -> list[Flip]:
        """Return the flips of one kind: `worse`, `better` or `changed`."""
        return [flip for flip in self.flips if flip.kind == kind]

    @property
    def scale(self) -> Scale:
        """Return how values of this metric are written."""
        return Scale(self.metric, self.graded)

    def to_json(self) -> dict[str, Any]:
        """Return everything for JSON; the flipped rows with their inputs and targets."""
        return {
            "task": self.task,
            "split": "dev",
            "metric": self.metric,
            "rows": self.rows,
            "a": vars(self.a).copy(),
            "b": vars(self.b).copy(),
            "difference": vars(self.difference).copy(),
            "counts": {kind: len(self.of(kind)) for kind in ("worse", "better", "changed")},
            "flips": [
                {
                    "row": f.row.id, "inputs": dict(f.row.inputs), "target": f.row.target, "a": f.a, "b": f.b,
                    "kind": f.kind,
                }
                for f in self.flips
            ],
        }  # fmt: skip


def flips(
    model: LanguageModel, task: Task, a: Answers, b: Answers, names: tuple[str, str], listener: Listener = SILENT
) -> Flips:
    """Answer the dev rows with both strategies as they are; `names` stand for the two in errors and progress.

    Raises ForewordError or UsageError if the task has no dev rows, or if one does not fit the task or the model.
    """
    old, new = measure_on_dev(model, task, [(names[0], a), (names[1], b)], listener)
    return pair_on_dev(task, old, new)


def measure_on_dev(
    model: LanguageModel, task: Task, named: Sequence[tuple[str, Answers]], listener: Listener = SILENT
) -> list[Measured]:
    """Answer and score the dev rows with each strategy, after all of them have been checked.

    Raises ForewordError or UsageError if the task has no dev rows, or if one does not fit the task or the model.
    """
    if not task.dev:
        raise ForewordError(f"task {task.name!r} has no dev rows to measure on; give it some: 'split: {{dev: 200}}'")
    bound = []
    for name, item in named:
        try:
            strategy = bind(item, model, task=task)
            for row in task.dev:
                strategy.take(row.inputs, row.id)
        except ForewordError as error:
            error.at(repr(name))
            raise
        bound.append((name, strategy))
    return [measure(strategy, task, task.dev, counter(listener, f"{name}: dev")) for name, strategy in bound]


def pair_on_dev(task: Task, a: Measured, b: Measured) -> Flips:
    """Pair what A and B scored on the dev rows: their intervals, the paired difference and the flips."""
    graded = not is_right_or_wrong(a.scores + b.scores)
    return Flips(
        task=task.name,
        metric=task.metric,
        rows=len(task.dev),
        a=score_interval(a.scores, task.seed),
        b=score_interval(b.scores, task.seed),
        difference=paired_difference(b.scores, a.scores, task.seed),
        graded=graded,
        flips=tuple(_flips(task.dev, a, b)),
    )


def _flips(rows: Sequence[Row], a: Measured, b: Measured) -> list[Flip]:
    flipped = []
    for row, *answers, old, new in zip(rows, a.answers, b.answers, a.scores, b.scores, strict=True):
        kind: Literal["worse", "better", "changed"]
        kind = "worse" if new < old else "better" if new > old else "changed"
        if kind != "changed" or (answers[0] != answers[1] and new < 1):
            flipped.append(Flip(row, answers[0], answers[1], kind))
    return flipped
