"""May an alias move to another version? Measures both on a task's dev rows and refuses one that is worse.

Knows strategies and rows, not where an alias is kept. Test rows are never opened: a gate that is asked before every
move would wear them out. Dev rows may have helped to choose either version, so that passing means "not shown to be
worse on these rows" and no more; who wants rows that nothing was chosen on gives the gate a task of its own.
"""

from dataclasses import dataclass
from typing import Any

from foreword.backbone import LanguageModel
from foreword.evals.flips import Flips, on_dev, paired
from foreword.evals.statistics import Interval, is_right_or_wrong, score_interval
from foreword.evals.wording import Scale, p_text
from foreword.flows import Answers
from foreword.listen import SILENT, Listener
from foreword.tasks import Task


@dataclass(frozen=True)
class Verdict:
    """What the gate found."""

    task: str
    metric: str
    rows: int
    """Dev rows, the same for both versions."""
    new: Interval
    against: Flips | None
    """The version that the alias points to as A, the new one as B; None where there is none to compare with."""
    graded: bool

    @property
    def passed(self) -> bool:
        """False where the whole 95 % interval of new minus old lies below zero."""
        return self.against is None or self.against.difference.high >= 0

    def __str__(self) -> str:
        """One sentence."""
        scale = Scale(self.metric, self.graded)
        scored = f"{scale.label} {scale.value(self.new.value)} ({scale.span(self.new.low, self.new.high)})"
        said = f"{scored} on {self.rows:,} dev rows of {self.task}"
        if self.against is None:
            return f"{said}; there is nothing to compare it with yet."
        gap, old = self.against.difference, self.against.a
        unit = "" if self.graded else " points"
        return said + (
            f", before {scale.value(old.value)}: a difference of {scale.signed(gap.value)}{unit} "
            f"(95 % interval {scale.span(gap.low, gap.high)}, {p_text(gap.p_value)}), "
            f"{len(self.against.of('better'))} rows better and {len(self.against.of('worse'))} worse."
        )

    def to_json(self) -> dict[str, Any]:
        """`passed`, both scores, the paired difference, the flips."""
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
    """Judge `new` against `old`, the version that would be replaced; `names` are those of the two, for messages.

    Raises ForewordError, or UsageError, where the task has no dev rows or a version does not fit it or the model.
    """
    named = [(names[0], new)] + ([(names[1], old)] if old is not None else [])
    measured, *before = on_dev(model, task, named, listener)
    against = paired(task, before[0], measured) if before else None
    graded = against.graded if against else not is_right_or_wrong(measured.scores)
    found = score_interval(measured.scores, task.seed)
    return Verdict(task.name, task.metric, len(task.dev), found, against, graded)
