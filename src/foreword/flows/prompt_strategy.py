"""A prompt on a model, as a strategy. Knows the model through its seam only."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from foreword.backbone import LanguageModel, Sampling
from foreword.flows.result import Result, Usage
from foreword.flows.returns import Read, identity
from foreword.flows.strategy import Cost, Kind
from foreword.flows.trace import Call, record
from foreword.listen import Count
from foreword.prompts import Prompt

Rows = Sequence[Mapping[str, object]]


class PromptStrategy:
    """The strategy that runs a prompt on a model.

    `read` turns an answer into its typed value; `kind` and `cost` follow from the prompt unless they are given. Raises
    ForewordError if the model cannot run the prompt.
    """

    def __init__(
        self,
        prompt: Prompt,
        model: LanguageModel,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        read: Read = identity,
        kind: Kind | None = None,
        cost: Cost | None = None,
    ) -> None:
        model.check(prompt)
        self.prompt, self.model, self.sampling, self._read = prompt, model, sampling, read
        self.kind: Kind = kind or ("hard" if prompt.soft is None else "soft")
        self.cost = cost or cost_of(prompt)

    @property
    def name(self) -> str:
        """The name of the prompt."""
        return self.prompt.name

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the prompt's inputs."""
        return self.prompt.variables

    @property
    def detail(self) -> str:
        """One line: the method and the virtual tokens of a soft prompt, and whether it is calibrated."""
        soft = self.prompt.soft
        form = "calibrated" if self.prompt.output.log_prior else "as it is"
        return form if soft is None else f"{soft.method}, {self.prompt.virtual_tokens} virtual tokens; {form}"

    def take(self, row: Mapping[str, str], where: str) -> dict[str, object]:
        """Return the prompt's inputs out of a row of texts; one that is declared as another type is read as JSON."""
        return self.prompt.take_texts(row, where)

    def batch(self, rows: Rows, on_rows: Count | None = None) -> list[Result[Any]]:
        """Answer all rows in one batch on the model; each result gets an equal share of the seconds."""
        inputs = [self.prompt.take(row, f"row {number}") for number, row in enumerate(rows)]
        if not inputs:
            return []
        began = time.perf_counter()
        answers = self.model.answer(self.prompt, inputs, self.sampling, on_rows)
        share = (time.perf_counter() - began) / len(inputs)
        results: list[Result[Any]] = []
        for row, answer in zip(inputs, answers, strict=True):
            value, problem = read_value(self._read, answer.value, answer.problem, f"prompt {self.name!r}")
            probabilities = answer.probabilities
            by_choice = (
                None
                if probabilities is None
                else dict(zip(self.prompt.output.choices or (), probabilities, strict=True))
            )
            usage = Usage(
                answer.prompt_tokens, answer.answer_tokens, answer.cached_tokens, answer.scored_tokens, calls=1
            )
            results.append(Result(answer.text, value, usage, share, by_choice, problem, answer.cuts))
            record(Call(self.name, row, results[-1]))
        return results


def cost_of(prompt: Prompt) -> Cost:
    """Return what it took to make `prompt`: its trained parameters and labelled rows."""
    return Cost(prompt.soft.trained_parameters if prompt.soft is not None else 0, prompt.labelled_rows)


def read_value(read: Read, value: Any, problem: str | None, whose: str) -> tuple[Any, str | None]:
    """Return the typed value of a valid answer and None; or None and what is wrong with the answer of `whose`."""
    if problem is None:
        try:
            return read(value), None
        except ValueError as error:
            problem = str(error)
    return None, f"{whose}: {problem}"
