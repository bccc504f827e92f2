"""Two strategies on the same dev rows: whose answers flip, and whether one is better. Never opens the test rows."""

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
    """A row that A and B answer differently, so that it matters."""

    row: Row
    a: str
    b: str
    kind: Literal["worse", "better", "changed"]
    """How B does: where answers are right or wrong, wrong instead of right, right instead of wrong, or wrong in another
    way; where they are graded, below A, above A, or as far from right as A."""


@dataclass(frozen=True)
class Flips:
    """What changes for a task's dev rows when B takes the place of A."""

    task: str
    metric: str
    rows: int
    a: Interval
    b: Interval
    difference: Difference
    """B minus A: exact McNemar where answers are right or wrong, else a paired bootstrap."""
    graded: bool
    flips: tuple[Flip, ...]
    """In the order of the dev rows."""

    def of(self, kind: str) -> list[Flip]:
        """The flips of one kind."""
        return [flip for flip in self.flips if flip.kind == kind]

    @property
    def scale(self) -> Scale:
        """How the numbers are written."""
        return Scale(self.metric, self.graded)

    def to_json(self) -> dict[str, Any]:
        """All of it; rows with their inputs and targets."""
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
    """Answer the dev rows with both, as they are stored; `names` tell them apart in errors and progress.

    Raises ForewordError, or UsageError, where the task has no dev rows or one does not fit it or the model.
    """
    old, new = on_dev(model, task, [(names[0], a), (names[1], b)], listener)
    return paired(task, old, new)


def on_dev(
    model: LanguageModel, task: Task, named: Sequence[tuple[str, Answers]], listener: Listener = SILENT
) -> list[Measured]:
    """Each prompt, chain or other strategy on the dev rows. What is wrong with one of them is raised before any is
    measured.
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
            raise type(error)(f"{name!r}: {error}") from error
        bound.append((name, strategy))
    return [measure(strategy, task, task.dev, counter(listener, f"{name}: dev")) for name, strategy in bound]


def paired(task: Task, a: Measured, b: Measured) -> Flips:
    """What has been measured of A and B, side by side."""
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
    found = []
    for row, *answers, old, new in zip(rows, a.answers, b.answers, a.scores, b.scores, strict=True):
        kind: Literal["worse", "better", "changed"]
        kind = "worse" if new < old else "better" if new > old else "changed"
        if kind != "changed" or (answers[0] != answers[1] and new < 1):
            found.append(Flip(row, answers[0], answers[1], kind))
    return found
