"""How the numbers of a comparison are written for people. Knows units and signs; not what was compared."""

from dataclasses import dataclass


def number(value: float, digits: int = 0) -> str:
    """`12,345.6`, with a true minus sign and never a minus zero."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def count(value: float) -> str:
    """Tokens, milliseconds and rows: a decimal only where it says something."""
    return number(value) if value >= 10 or value == int(value) else number(value, 1)


def p_text(p_value: float) -> str:
    """`p < 0.001`, `p = 0.032`, `p = 0.45`."""
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {number(p_value, 3 if p_value < 0.0995 else 2)}"


@dataclass(frozen=True)
class Scale:
    """How values of one metric read: shares of right answers as percent and points, graded scores as they are."""

    metric: str
    graded: bool

    @property
    def label(self) -> str:
        """The metric's name in words."""
        return "F1" if self.metric == "f1" else self.metric.replace("_", " ")

    def value(self, value: float) -> str:
        """`86.1 %`, or `0.861`."""
        return number(value, 3) if self.graded else f"{number(100 * value, 1)} %"

    def span(self, low: float, high: float) -> str:
        """`83.8 to 88.1`, or `0.838 to 0.881`; the unit has been named beside it."""
        return f"{self._bare(low)} to {self._bare(high)}"

    def gap(self, difference: float) -> str:
        """The size of a difference: `13.0 points`, or `0.130`."""
        return self._bare(abs(difference)) + ("" if self.graded else " points")

    def signed(self, difference: float) -> str:
        """`+13.0`, `−0.4`, `0.0`."""
        text = self._bare(difference)
        return text if text.startswith("−") or not text.strip("0.") else f"+{text}"

    def claim(self, value: float, rows: int) -> str:
        """What a strategy does, after its name: `answers 86.1 % of 1,000 test rows correctly`."""
        verbs = {"accuracy": ("answers", "correctly"), "exact_match": ("matches", "exactly")}
        if self.graded or self.metric not in verbs:
            return f"scores {self.value(value)} {self.label} over {number(rows)} test rows"
        verb, how = verbs[self.metric]
        return f"{verb} {self.value(value)} of {number(rows)} test rows {how}"

    def _bare(self, value: float) -> str:
        return number(value, 3) if self.graded else number(100 * value, 1)
