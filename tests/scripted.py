"""A model behind the seam that answers a row with what the row itself says, and a task of such rows."""

from collections.abc import Sequence
from typing import Any

from foreword.backbone import Answer
from foreword.errors import ForewordError
from foreword.prompts import Prompt
from foreword.tasks import Row, Task

CHOICES = ("bad", "good", "odd")


class Scripted:
    """A model behind the seam: answers a row with what the row says for the prompt's body. Keeps what it was asked."""

    name = "scripted"

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def check(self, prompt: Prompt) -> None:
        if "unfit" in prompt.body:
            raise ForewordError("this prompt does not run here")

    def answer(self, prompt: Prompt, rows: Sequence[Any], sampling: Any = None, on_rows: Any = None) -> list[Answer]:  # noqa: ARG002
        said = [dict(pair.split("=") for pair in row["text"].split(";")) for row in rows]
        self.asked |= {row["text"] for row in rows}
        if on_rows:
            on_rows(len(rows), len(rows))
        return [Answer(one[prompt.body[0]], None, None, 1, 1) for one in said]


A, B = Prompt("p", "a {{ text }}"), Prompt("p", "b {{ text }}")


def task(answers: Sequence[tuple[str, str, str]], metric: str = "accuracy", choices: Any = CHOICES) -> Task:
    """Dev rows of (target, what A says, what B says); test rows that no one may read."""
    dev = tuple(Row(f"dev:{i}", {"text": f"a={a};b={b};i={i}"}, target) for i, (target, a, b) in enumerate(answers))
    return Task("toy", ("text",), choices, metric, 7, (), dev, (Row("test:0", {"text": "a=x;b=x"}, "good"),), ())
