"""What a search has found: the prompt, how it came about, and how it does on rows that nothing was chosen on."""

from dataclasses import dataclass
from typing import Any

from foreword.evals.statistics import Difference, Interval
from foreword.evals.verdict import LEVEL
from foreword.evals.wording import Scale, p_text
from foreword.prompts import Prompt


@dataclass(frozen=True)
class Accepted:
    """A candidate that did well enough on a few training rows to be measured on dev."""

    calls: int
    """Rows that had been answered by then."""
    parents: tuple[int, ...]
    """Which steps it was made from; two where they were merged; none for the start."""
    dev: float
    """On the dev rows of the search, a part of them all."""
    body: str
    demonstrations: tuple[str, ...]
    """Ids of the training rows that it shows, in their order."""


@dataclass(frozen=True)
class Tested:
    """Both prompts on the test rows, which were opened for this and nothing else."""

    rows: int
    start: Interval
    found: Interval
    difference: Difference
    """Found minus start, paired."""
    graded: bool


@dataclass(frozen=True)
class Optimized:
    """The outcome of `optimize`."""

    task: str
    metric: str
    prompt: Prompt
    """The best on dev, in the form that does better there, as it is or calibrated; the start where nothing beat it."""
    start: Prompt
    """In its better form too, so that the difference is that of the words."""
    dev: float
    start_dev: float
    """On all dev rows, which the prompt was chosen on: the difference flatters it."""
    test: Tested | None
    """None where the start stays, for then there is nothing to test, or where the task has no test rows."""
    history: tuple[Accepted, ...]
    tried: int
    """Candidates that were measured on anything."""
    refused: tuple[str, ...]
    """Why others were not: one reason each."""
    calls: int
    """Rows answered by some prompt before the test."""
    seconds: float
    stopped: str
    """Why the search ended."""

    @property
    def improved(self) -> bool:
        """Whether `prompt` is another one than the start."""
        return self.dev > self.start_dev

    @property
    def verdict(self) -> str:
        """One plain statement, whichever way it went."""
        if not self.improved:
            return f"Nothing that was tried does better on dev than {self.start.name}; keep it. Test stays closed."
        if self.test is None:
            return f"The task has no test rows, so that nobody knows whether it is better than {self.start.name}."
        test, gap = self.test, self.test.difference
        scale = Scale(self.metric, test.graded)
        evidence = f"(95 % interval {scale.span(gap.low, gap.high)}, {p_text(gap.p_value)})"
        if gap.p_value >= LEVEL:
            unit = "" if test.graded else " points"
            return (
                f"The new prompt is not distinguishable from the start, {self.start.name}, on {test.rows:,} test rows: "
                f"the difference is {scale.signed(gap.value)}{unit} {evidence}."
            )
        more = "more" if gap.value > 0 else "less"
        return (
            f"The new prompt {scale.claim(test.found.value, test.rows)}, {scale.gap(gap.value)} {more} than the start, "
            f"{self.start.name} {evidence}."
        )

    def to_json(self) -> dict[str, Any]:
        """All of it but the prompts' own files."""
        test = self.test and {
            "rows": self.test.rows,
            "start": vars(self.test.start).copy(),
            "found": vars(self.test.found).copy(),
            "difference": vars(self.test.difference).copy(),
        }
        return {
            "task": self.task,
            "metric": self.metric,
            "improved": self.improved,
            "body": self.prompt.body,
            "dev": {"start": self.start_dev, "found": self.dev},
            "test": test,
            "verdict": self.verdict,
            "calls": self.calls,
            "tried": self.tried,
            "refused": list(self.refused),
            "seconds": self.seconds,
            "stopped": self.stopped,
            "history": [vars(step).copy() for step in self.history],
        }
