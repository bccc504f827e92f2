"""Scores candidates on rows, each pair once. Knows prompts and rows; knows nothing of the search.

If the start scores higher calibrated, so are all candidates: the model's label bias is measured for every prompt on the
same unlabelled rows and subtracted.
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
"""A model's value for a row: its answer, or a log-likelihood per choice, in nats, comparable among the choices."""


class Scorer:
    """Scores prompts on rows of `task`, calibrated on `bias_rows`; not calibrated if that is None."""

    def __init__(self, model: LanguageModel, task: Task, journal: Journal, bias_rows: Sequence[Row] | None) -> None:
        self.calls = 0
        """The rows that prompts answered in this search, each pair counted once. Values out of the journal count too:
        a search counts the same however often it was resumed."""
        self._model, self._task, self._journal, self._bias_rows = model, task, journal, bias_rows
        self._values: dict[tuple[str, str], Value] = {}

    def answer_and_score(self, prompt: Prompt, rows: Sequence[Row]) -> tuple[list[str], list[float]]:
        """Return the prompt's answers to `rows` and the task's metric for each."""
        if self._bias_rows is None:
            answers = [str(value) for value in self._values_for(prompt, rows)]
        else:
            choices = self._task.choices
            assert choices is not None
            values = np.array(self._values_for(prompt, [*self._bias_rows, *rows]))
            on_bias_rows, on_rows = values[: len(self._bias_rows)], values[len(self._bias_rows) :]
            normalized = on_bias_rows - np.logaddexp.reduce(on_bias_rows, axis=1, keepdims=True)
            calibrated = on_rows - np.logaddexp.reduce(normalized, axis=0)
            answers = [choices[k] for k in calibrated.argmax(1)]
        return answers, self._task.score(answers, rows)

    def _values_for(self, prompt: Prompt, rows: Sequence[Row]) -> list[Value]:
        unseen = {row.id: row for row in rows if (prompt.digest, row.id) not in self._values}
        self.calls += len(unseen)
        missing = [row for row in unseen.values() if not self._load_from_journal(prompt, row)]
        if missing:
            computed = self._run_model(prompt, missing)
            self._journal.put({_key(prompt, row): value for row, value in zip(missing, computed, strict=True)})
            for row, value in zip(missing, computed, strict=True):
                self._values[prompt.digest, row.id] = value
        return [self._values[prompt.digest, row.id] for row in rows]

    def _load_from_journal(self, prompt: Prompt, row: Row) -> bool:
        """Take the value of a row out of the journal; return whether it was there.

        Raises ForewordError if the value is none that a search writes.
        """
        value = self._journal.get(_key(prompt, row))
        if value is None:
            return False
        if not self._is_valid(value):
            raise ForewordError(f"the journal says {value!r:.80} of {row.id!r}, which no search writes; delete it")
        self._values[prompt.digest, row.id] = value
        return True

    def _is_valid(self, value: Any) -> bool:
        if self._bias_rows is None:
            return isinstance(value, str)
        numbers = isinstance(value, list) and all(isinstance(v, float) and math.isfinite(v) for v in value)
        return numbers and len(value) == len(self._task.choices or ())

    def _run_model(self, prompt: Prompt, rows: Sequence[Row]) -> list[Value]:
        inputs = [prompt.take_texts(row.inputs, row.id) for row in rows]
        if self._bias_rows is None:
            return [result.text for result in PromptStrategy(prompt, self._model).batch(inputs)]
        assert isinstance(self._model, Backbone)
        values: list[Value] = self._model.score(prompt, inputs).comparable.tolist()
        return values


def _key(prompt: Prompt, row: Row) -> str:
    return f"{prompt.digest} {row.id}"
