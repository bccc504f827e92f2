"""A candidate: words and demonstrations in two texts, and the prompt that they make. Refuses what is no such prompt."""

import json
from collections.abc import Mapping, Sequence

from foreword.backbone import Backbone, LanguageModel
from foreword.errors import ForewordError
from foreword.prompts import Prompt, Text, Turn, few_shot
from foreword.prompts.template import included
from foreword.tasks import Row

INSTRUCTION, DEMONSTRATIONS = 0, 1
"""Names of the two texts. Numbers, for gepa walks over a set of them, and texts lie in a set in another order every
time Python starts."""
Parts = Mapping[int, str]
"""A template's body, and the ids of training rows as a JSON list."""


class RefusedError(ForewordError):
    """A candidate that is no prompt for this task: told, and never measured."""


class SearchSpace:
    """What all candidates have in common: they do what `start` does, in other words, with rows of `pool` shown."""

    def __init__(self, model: LanguageModel, start: Prompt, pool: Sequence[Row], tried: Sequence[Row]) -> None:
        self.start = start.without_prior()
        self.model = model
        self.pool = {row.id: row for row in pool}
        self._longest = max(tried, key=lambda row: sum(map(len, row.inputs.values())))
        self._roles, self._text = _roles_and_text(self.start, self._longest)
        self._made: dict[tuple[tuple[int, str], ...], Prompt] = {}

    @property
    def seed(self) -> dict[int, str]:
        """The start as a candidate; one with examples of its own keeps them, and has no demonstrations to choose."""
        return {INSTRUCTION: self.start.body} | ({DEMONSTRATIONS: "[]"} if self.start.examples is None else {})

    def prompt(self, parts: Parts) -> Prompt:
        """The prompt that `parts` make. Raises RefusedError, with the reason, where it does not do the same."""
        key = tuple(sorted(parts.items()))
        if key not in self._made:
            try:
                self._made[key] = self._make(parts)
            except ForewordError as error:
                raise RefusedError(str(error)) from error
        return self._made[key]

    def _make(self, parts: Parts) -> Prompt:
        prompt = self.start.replace(body=parts[INSTRUCTION])
        if prompt.body != self.start.body:
            self._compare(prompt)
        if shown := demonstrations(parts):
            rows = [self.pool[name] for name in shown]
            with_rows = few_shot(prompt, [(prompt.take_texts(row.inputs, row.id), row.target) for row in rows])
            prompt = with_rows.replace(name=self.start.name)
        self.model.check(prompt)
        if isinstance(self.model, Backbone):
            longest = prompt.take_texts(self._longest.inputs, self._longest.id)
            self.model.encode(prompt, longest)  # refuses what is too long
        return prompt

    def _compare(self, prompt: Prompt) -> None:
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
    """The ids of the rows that a candidate shows."""
    return tuple(json.loads(parts.get(DEMONSTRATIONS, "[]")))


def _roles_and_text(prompt: Prompt, row: Row) -> tuple[list[str], str]:
    pieces = prompt.render(prompt.take_texts(row.inputs, row.id))
    text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    return [piece.role for piece in pieces if isinstance(piece, Turn)], text
