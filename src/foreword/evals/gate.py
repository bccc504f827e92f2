"""The gate in front of an alias: measures the new version and the old one on dev, and refuses one that is worse.

Knows strategies and rows; knows no table. Test rows are never read: a gate that runs before every move would wear them
out. Dev rows may have helped to choose either version, so that passing means "not shown to be
worse on these rows" and no more; who wants rows that nothing was chosen on gives the gate a task of its own.
"""

from dataclasses import dataclass
from typing import Any

from foreword.backbone import LanguageModel
from foreword.evals.flips import Flips, measure_on_dev, pair_on_dev
from foreword.evals.statistics import Interval, is_right_or_wrong, score_interval
from foreword.evals.wording import Scale, p_text
from foreword.flows import Answers
from foreword.listen import SILENT, Listener
from foreword.tasks import Task


@dataclass(frozen=True)
class Verdict:
    """What the gate measured, and whether the new version passes."""

    task: str
    metric: str
    rows: int
    """The number of dev rows, the same rows for both versions."""
    new: Interval
    against: Flips | None
    """The flips from the version that the alias points to (A) to the new one (B); None if the alias is new."""
    graded: bool

    @property
    def passed(self) -> bool:
        """Return False if the whole 95 % interval of new minus old lies below zero."""
        return self.against is None or self.against.difference.high >= 0

    def __str__(self) -> str:
        """Return both scores and their difference in one sentence."""
        scale = Scale(self.metric, self.graded)
        scored = f"{scale.label} {scale.value(self.new.value)} ({scale.span(self.new.low, self.new.high)})"
        summary = f"{scored} on {self.rows:,} dev rows of {self.task}"
        if self.against is None:
            return f"{summary}; there is nothing to compare it with yet."
        gap, old = self.against.difference, self.against.a
        unit = "" if self.graded else " points"
        return summary + (
            f", before {scale.value(old.value)}: a difference of {scale.signed(gap.value)}{unit} "
            f"(95 % interval {scale.span(gap.low, gap.high)}, {p_text(gap.p_value)}), "
            f"{len(self.against.of('better'))} rows better and {len(self.against.of('worse'))} worse."
        )

    def to_json(self) -> dict[str, Any]:
        """Return `passed`, both scores, the paired difference and the flips, for JSON."""
        return {
            "passed": self.passed,
            "task": self.task,
            "split": "dev",
            "metric": self.metric,
            "rows": self.rows,
            "new": vars(self.new).copy(),
            "old": vars(self.against.a).copy() if self.against else None,
            "difference": vars(self.against.difference).copy() if self.against else None,
            "flips": self.against.to_json()["flips"] if self.against else None,
        }


def gate(
    model: LanguageModel,
    task: Task,
    new: Answers,
    old: Answers | None,
    names: tuple[str, str],
    listener: Listener = SILENT,
) -> Verdict:
    """Judge `new` against `old`, the version that it would replace; `names` are those of the two, for messages.

    Raises ForewordError or UsageError if the task has no dev rows, or if one does not fit the task or the model.
    """
    named = [(names[0], new)] + ([(names[1], old)] if old is not None else [])
    measured, *before = measure_on_dev(model, task, named, listener)
    against = pair_on_dev(task, before[0], measured) if before else None
    graded = against.graded if against else not is_right_or_wrong(measured.scores)
    interval = score_interval(measured.scores, task.seed)
    return Verdict(task.name, task.metric, len(task.dev), interval, against, graded)
