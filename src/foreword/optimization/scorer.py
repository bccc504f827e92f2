"""How candidates do on rows, none of them measured twice. Knows prompts and rows; knows nothing of the search.

Choices are scored the way they will be served if that did better for the start: with the model's label bias
taken off, measured for every prompt on the same rows, whose labels are not looked at.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from foreword.backbone import Backbone, LanguageModel
from foreword.errors import ForewordError
from foreword.flows import PromptStrategy
from foreword.optimization.journal import Journal
from foreword.prompts import Prompt
from foreword.tasks import Row, Task

Value = str | list[float]
"""What a model says to a row: its answer, or how likely each choice is, in nats, comparable among them."""


class Scorer:
    """`bias_rows`: the rows that a label bias is measured on; None: answers are taken as they come."""

    def __init__(self, model: LanguageModel, task: Task, journal: Journal, bias_rows: Sequence[Row] | None) -> None:
        self.calls = 0
        """Rows that a prompt was asked for the first time in this search, those that the journal knew included: the
        same search counts the same however often it was ended and begun again."""
        self._model, self._task, self._journal, self._bias_rows = model, task, journal, bias_rows
        self._values: dict[tuple[str, str], Value] = {}

    def judge(self, prompt: Prompt, rows: Sequence[Row]) -> tuple[list[str], list[float]]:
        """The answers to `rows` and the task's metric of each."""
        if self._bias_rows is None:
            answers = [str(value) for value in self._said(prompt, rows)]
        else:
            choices = self._task.choices
            assert choices is not None
            both = np.array(self._said(prompt, [*self._bias_rows, *rows]))
            likely = both[: len(self._bias_rows)]
            likely = likely - np.logaddexp.reduce(likely, axis=1, keepdims=True)
            calibrated = both[len(self._bias_rows) :] - np.logaddexp.reduce(likely, axis=0)
            answers = [choices[k] for k in calibrated.argmax(1)]
        return answers, self._task.score(answers, rows)

    def _said(self, prompt: Prompt, rows: Sequence[Row]) -> list[Value]:
        new = {row.id: row for row in rows if (prompt.digest, row.id) not in self._values}
        self.calls += len(new)
        unknown = [row for row in new.values() if not self._known(prompt, row)]
        if unknown:
            said = self._ask(prompt, unknown)
            self._journal.put({_key(prompt, row): value for row, value in zip(unknown, said, strict=True)})
            for row, value in zip(unknown, said, strict=True):
                self._values[prompt.digest, row.id] = value
        return [self._values[prompt.digest, row.id] for row in rows]

    def _known(self, prompt: Prompt, row: Row) -> bool:
        """Whether the journal has it; then it is taken from there."""
        value = self._journal.get(_key(prompt, row))
        if value is None:
            return False
        if not self._fits(value):
            raise ForewordError(f"the journal says {value!r:.80} of {row.id!r}, which no search writes; delete it")
        self._values[prompt.digest, row.id] = value
        return True

    def _fits(self, value: Any) -> bool:
        if self._bias_rows is None:
            return isinstance(value, str)
        numbers = isinstance(value, list) and all(isinstance(v, float) and math.isfinite(v) for v in value)
        return numbers and len(value) == len(self._task.choices or ())

    def _ask(self, prompt: Prompt, rows: Sequence[Row]) -> list[Value]:
        inputs = [prompt.take_texts(row.inputs, row.id) for row in rows]
        if self._bias_rows is None:
            return [result.text for result in PromptStrategy(prompt, self._model).batch(inputs)]
        assert isinstance(self._model, Backbone)
        values: list[Value] = self._model.score(prompt, inputs).comparable.tolist()
        return values


def _key(prompt: Prompt, row: Row) -> str:
    return f"{prompt.digest} {row.id}"
