"""A template taken apart into the words around its row. Knows the shape of a template; knows no tasks, no models."""

import re
from dataclasses import dataclass

MARK = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
KEPT = re.compile(r"\{\{[-+]?\s*(?:system|user|assistant)\s*\(|\{%[-+]?\s*include\b|\{#")
"""Roles, includes and comments: they stand where they stand, and are no part of the row."""


@dataclass(frozen=True)
class Frame:
    """`before`, `row` and `after` hold every variable, role and include, and stay; the words between them may change.

    Put together they are the body again, to the letter.
    """

    before: str
    intro: str
    """Whole lines before the row."""
    label: str
    """What stands before the first variable in its line."""
    row: str
    """From the first variable, loop or condition to the last."""
    cue: str
    """What stands between the row and the answer, or the next role."""
    after: str

    @property
    def body(self) -> str:
        return self.before + self.intro + self.label + self.row + self.cue + self.after

    @property
    def noun(self) -> str:
        """What its words call a row: `movie review` for `Movie review: `; empty where they do not."""
        words = re.sub(r"[^\w' -]", "", self.label).strip().lower()
        return words if len(words.split()) <= 3 else ""


def frame(body: str) -> Frame | None:
    """The parts of a body; None where it shows no row."""
    marks = list(MARK.finditer(body))
    rows = [mark for mark in marks if not KEPT.match(mark[0])]
    if not rows:
        return None
    first, last = rows[0].start(), rows[-1].end()
    start = max((mark.end() for mark in marks if mark.end() <= first), default=0)
    end = min((mark.start() for mark in marks if mark.start() >= last), default=len(body))
    line = body.rfind("\n", start, first) + 1 or start
    return Frame(body[:start], body[start:line], body[line:first], body[first:last], body[last:end], body[end:])
