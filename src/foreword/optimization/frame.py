"""Splits a template into the words around its row. Knows the syntax of templates; knows no tasks and no models."""

import re
from dataclasses import dataclass

TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
FIXED = re.compile(r"\{\{[-+]?\s*(?:system|user|assistant)\s*\(|\{%[-+]?\s*include\b|\{#")
"""The pattern of roles, includes and comments: they keep their places and are no part of the row."""


@dataclass(frozen=True)
class Frame:
    """The parts of a template; joined in order they are its body again, character for character.

    `before`, `row` and `after` hold every variable, role and include, and stay; the words between them may change.
    """

    before: str
    intro: str
    """The whole lines before the row."""
    label: str
    """The text before the first variable in its line."""
    row: str
    """The text from the first variable, loop or condition to the last."""
    cue: str
    """The text between the row and the answer, or the next role."""
    after: str

    @property
    def body(self) -> str:
        """Return the template's body."""
        return self.before + self.intro + self.label + self.row + self.cue + self.after

    @property
    def noun(self) -> str:
        """Return what the label calls a row: `movie review` for `Movie review: `; empty beyond three words."""
        words = re.sub(r"[^\w' -]", "", self.label).strip().lower()
        return words if len(words.split()) <= 3 else ""


def frame(body: str) -> Frame | None:
    """Split a body into its parts; None if it has no variable, so that it shows no row."""
    tags = list(TAG.finditer(body))
    rows = [tag for tag in tags if not FIXED.match(tag[0])]
    if not rows:
        return None
    first, last = rows[0].start(), rows[-1].end()
    start = max((tag.end() for tag in tags if tag.end() <= first), default=0)
    end = min((tag.start() for tag in tags if tag.start() >= last), default=len(body))
    line = body.rfind("\n", start, first) + 1 or start
    return Frame(body[:start], body[start:line], body[line:first], body[first:last], body[last:end], body[end:])
