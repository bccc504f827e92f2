"""Formats the numbers of a comparison for people. Knows units and signs; knows nothing of what was compared."""

from dataclasses import dataclass


def number(value: float, digits: int = 0) -> str:
    """Format a number as `12,345.6`, with a true minus sign and never a minus zero."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def count(value: float) -> str:
    """Format tokens, milliseconds or rows: below 10 with one decimal if there is a fraction, else with none."""
    return number(value) if value >= 10 or value == int(value) else number(value, 1)


def p_text(p_value: float) -> str:
    """Format a p-value as `p < 0.001`, `p = 0.032` or `p = 0.45`."""
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {number(p_value, 3 if p_value < 0.0995 else 2)}"


@dataclass(frozen=True)
class Scale:
    """The format of one metric's values: shares of right answers as percent and points, graded scores as they are."""

    metric: str
    graded: bool

    @property
    def label(self) -> str:
        """Return the metric's name in words."""
        return "F1" if self.metric == "f1" else self.metric.replace("_", " ")

    def value(self, value: float) -> str:
        """Format a value as `86.1 %`, or as `0.861` if scores are graded."""
        return number(value, 3) if self.graded else f"{number(100 * value, 1)} %"

    def span(self, low: float, high: float) -> str:
        """Format an interval as `83.8 to 88.1`, or as `0.838 to 0.881` if scores are graded; without the unit."""
        return f"{self._bare(low)} to {self._bare(high)}"

    def gap(self, difference: float) -> str:
        """Format the size of a difference as `13.0 points`, or as `0.130` if scores are graded."""
        return self._bare(abs(difference)) + ("" if self.graded else " points")

    def signed(self, difference: float) -> str:
        """Format a difference with its sign: `+13.0`, `−0.4` or `0.0`."""
        text = self._bare(difference)
        return text if text.startswith("−") or not text.strip("0.") else f"+{text}"

    def claim(self, value: float, rows: int) -> str:
        """Write the predicate of a sentence about a strategy: `answers 86.1 % of 1,000 test rows correctly`."""
        verbs = {"accuracy": ("answers", "correctly"), "exact_match": ("matches", "exactly")}
        if self.graded or self.metric not in verbs:
            return f"scores {self.value(value)} {self.label} over {number(rows)} test rows"
        verb, how = verbs[self.metric]
        return f"{verb} {self.value(value)} of {number(rows)} test rows {how}"

    def _bare(self, value: float) -> str:
        return number(value, 3) if self.graded else number(100 * value, 1)
