"""Candidates of the search: an instruction and demonstrations, checked and made into a prompt. Knows no scores."""

import json
from collections.abc import Mapping, Sequence

from foreword.backbone import Backbone, LanguageModel
from foreword.errors import ForewordError
from foreword.prompts import Prompt, Text, Turn, few_shot, included
from foreword.tasks import Row

INSTRUCTION, DEMONSTRATIONS = 0, 1
"""The names of a candidate's two parts. They are numbers because gepa iterates over a set of them, and the order of
strings in a set changes with every start of Python."""
Parts = Mapping[int, str]
"""The parts of a candidate: a template's body, and the ids of training rows as a JSON list."""


class RefusedError(ForewordError):
    """Raised for a candidate that is not a valid prompt for the task; it is reported and never measured."""


class SearchSpace:
    """The space of candidates: prompts with the inputs and outputs of `start`, in other words, with rows of `pool`.

    The longest row of `tried` must fit the model with every candidate.
    """

    def __init__(self, model: LanguageModel, start: Prompt, pool: Sequence[Row], tried: Sequence[Row]) -> None:
        self.start = start.without_prior()
        self.model = model
        self.pool = {row.id: row for row in pool}
        self._longest = max(tried, key=lambda row: sum(map(len, row.inputs.values())))
        self._roles, self._text = _roles_and_text(self.start, self._longest)
        self._prompts: dict[tuple[tuple[int, str], ...], Prompt] = {}

    @property
    def seed(self) -> dict[int, str]:
        """Return the start as a candidate; a start with examples of its own keeps them and gets no demonstrations."""
        return {INSTRUCTION: self.start.body} | ({DEMONSTRATIONS: "[]"} if self.start.examples is None else {})

    def prompt(self, parts: Parts) -> Prompt:
        """Return the prompt of `parts`. Raises RefusedError, with the reason, if it is not in this space."""
        key = tuple(sorted(parts.items()))
        if key not in self._prompts:
            try:
                self._prompts[key] = self._build(parts)
            except ForewordError as error:
                raise RefusedError(str(error)) from error
        return self._prompts[key]

    def _build(self, parts: Parts) -> Prompt:
        prompt = self.start.replace(body=parts[INSTRUCTION])
        if prompt.body != self.start.body:
            self._check_same_inputs(prompt)
        if ids := demonstrations(parts):
            rows = [self.pool[row_id] for row_id in ids]
            with_rows = few_shot(prompt, [(prompt.take_texts(row.inputs, row.id), row.target) for row in rows])
            prompt = with_rows.replace(name=self.start.name)
        self.model.check(prompt)
        if isinstance(self.model, Backbone):
            longest = prompt.take_texts(self._longest.inputs, self._longest.id)
            self.model.encode(prompt, longest)  # raises if the prompt is too long
        return prompt

    def _check_same_inputs(self, prompt: Prompt) -> None:
        if prompt.virtual_tokens:
            raise RefusedError("virtual tokens are learned, not written")
        if prompt.variables != self.start.variables:
            raise RefusedError(f"it takes {list(prompt.variables)} in the place of {list(self.start.variables)}")
        if set(included(prompt.body, prompt.name)) != set(included(self.start.body, self.start.name)):
            raise RefusedError("it includes other prompts than the start does")
        roles, text = _roles_and_text(prompt, self._longest)
        if roles != self._roles:
            raise RefusedError(f"it has the roles {roles} in the place of {self._roles}")
        for name, value in self._longest.inputs.items():
            if value in self._text and value not in text:
                raise RefusedError(f"it names {name!r} and does not show it")


def demonstrations(parts: Parts) -> tuple[str, ...]:
    """Return the ids of the training rows that a candidate shows."""
    return tuple(json.loads(parts.get(DEMONSTRATIONS, "[]")))


def _roles_and_text(prompt: Prompt, row: Row) -> tuple[list[str], str]:
    pieces = prompt.render(prompt.take_texts(row.inputs, row.id))
    text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    return [piece.role for piece in pieces if isinstance(piece, Turn)], text
