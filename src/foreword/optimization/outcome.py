"""The outcome of a search: the prompt, its history, and the scores on test. Knows scores; knows no models."""

from dataclasses import dataclass
from typing import Any

from foreword.evals import LEVEL, Difference, Interval, Scale, p_text
from foreword.prompts import Prompt


@dataclass(frozen=True)
class Accepted:
    """A candidate that did well enough on a few training rows to be measured on dev."""

    calls: int
    """The calls up to then: rows that some prompt had answered."""
    parents: tuple[int, ...]
    """The indices of the candidates that it was made from: two if they were merged, none for the start."""
    dev: float
    """The mean score on the dev rows of the search, which may be a part of all."""
    body: str
    """The template's body."""
    demonstrations: tuple[str, ...]
    """The ids of the training rows that it shows, in their order."""


@dataclass(frozen=True)
class Tested:
    """The scores of the start and the found prompt on the test rows, which were read for nothing else."""

    rows: int
    start: Interval
    found: Interval
    difference: Difference
    """The mean score of `found` minus that of `start`, with a paired test."""
    graded: bool
    """Whether scores are graded, not 0 or 1."""


@dataclass(frozen=True)
class Optimized:
    """The outcome of `optimize`."""

    task: str
    metric: str
    prompt: Prompt
    """The best prompt on dev, as it is or calibrated, whichever scores higher there; the start if nothing beat it."""
    start: Prompt
    """The start in its better form too, so that only the words make the difference."""
    dev: float
    """The score of `prompt` on all dev rows. It was chosen on them, so this is optimistic."""
    start_dev: float
    """The score of `start` on all dev rows."""
    test: Tested | None
    """The scores on test; None if the start stays, or if the task has no test rows."""
    history: tuple[Accepted, ...]
    """The candidates that were measured on dev, the start first."""
    tried: int
    """The number of different prompts that were measured on any rows."""
    refused: tuple[str, ...]
    """The reason for each candidate that was refused."""
    calls: int
    """The rows that some prompt answered before the test."""
    seconds: float
    stopped: str
    """Why the search ended."""

    @property
    def improved(self) -> bool:
        """Return whether `prompt` scores higher on dev than the start."""
        return self.dev > self.start_dev

    @property
    def verdict(self) -> str:
        """Say in one statement whether the prompt is better, whichever way it went."""
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
        """Return everything for JSON but the prompts' own files."""
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
