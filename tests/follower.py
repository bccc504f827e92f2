"""A model behind the seam that some words help, and a task on which that shows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from foreword.backbone import Answer
from foreword.errors import ForewordError
from foreword.prompts import Prompt, Text
from foreword.tasks import Row, Task

CHOICES = ("bad", "good")


class Follower:
    """Reads a review rightly when the prompt has words that it likes; every other row in any case. Says `bad` else.

    It likes to be led up to the answer, and demonstrations of both labels.
    """

    name, parallel = "follower", 1

    def __init__(self, fails_after: int | None = None) -> None:
        self.asked = 0
        self._fails_after = fails_after

    def check(self, prompt: Prompt) -> None:
        if len(prompt.body) > 3_000:
            raise ForewordError("too long for this model")

    def answer(self, prompt: Prompt, rows: Sequence[Any], sampling: Any = None, on_rows: Any = None) -> list[Answer]:  # noqa: ARG002
        if self._fails_after is not None and self.asked >= self._fails_after:
            raise ForewordError("the model is gone")
        self.asked += len(rows)
        return [Answer(self._say(prompt, row), None, None, 1, 1) for row in rows]

    def _say(self, prompt: Prompt, row: Any) -> str:
        text = "".join(piece.text for piece in prompt.render(row) if isinstance(piece, Text))
        *shots, query = text.split("\n\n")
        number = int(row["text"].split()[-1])
        likes = 1 + 2 * query.endswith(" is") + (sum(" good" in s for s in shots) > 0 < sum(" bad" in s for s in shots))
        truth = row["text"].split()[0]
        return {"fine": "good", "poor": "bad"}[truth] if number % 5 < likes else "bad"


def task(**changes: Any) -> Task:
    def rows(name: str, count: int) -> tuple[Row, ...]:
        return tuple(
            Row(f"{name}:{i}", {"text": f"{('fine', 'poor')[i // 3 % 2]} {name} {i}"}, ("good", "bad")[i // 3 % 2])
            for i in range(count)
        )

    made = Task("toy", ("text",), CHOICES, "accuracy", 7, rows("train", 150), rows("dev", 60), rows("test", 120), ())
    return replace(made, **changes)
