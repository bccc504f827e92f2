"""Strategies of a prompt, or a chain of prompts, that is bound to a model. Knows models through their seam only."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from foreword.backbone import LanguageModel, Sampling
from foreword.errors import ForewordError, UsageError
from foreword.flows.chain import Chain
from foreword.flows.result import Result, Usage
from foreword.flows.returns import Read, identity
from foreword.flows.strategy import Cost, Function, Kind, Strategy
from foreword.flows.trace import Call, record
from foreword.listen import Count
from foreword.prompts import Prompt, expect_prompt
from foreword.tasks import Task

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


class ChainStrategy:
    """The strategy that runs a chain on a model. Raises ForewordError if the model cannot run one of its prompts."""

    kind: Kind = "flow"

    def __init__(
        self,
        chain: Chain,
        model: LanguageModel,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        read: Read = identity,
    ) -> None:
        self.chain, self.model, self._read = chain, model, read
        self._steps = [(step, PromptStrategy(step.prompt, model, sampling)) for step in chain.steps]

    @property
    def name(self) -> str:
        """The name of the chain."""
        return self.chain.name

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the chain's inputs."""
        return self.chain.inputs

    @property
    def cost(self) -> Cost:
        """The costs of the chain's prompts together, each prompt counted once."""
        costs = [cost_of(prompt) for prompt in {step.prompt.digest: step.prompt for step in self.chain.steps}.values()]
        return Cost(sum(cost.trained_parameters for cost in costs), sum(cost.labelled_rows for cost in costs))

    @property
    def detail(self) -> str:
        """One line: the prompts of the steps in order."""
        return "chain: " + " → ".join(step.prompt.name for step in self.chain.steps)

    def take(self, row: Mapping[str, str], where: str) -> dict[str, object]:
        """Return the chain's inputs out of a row. Raises UsageError if one is missing."""
        return self.chain.take(row, where)

    def batch(self, rows: Rows, on_rows: Count | None = None) -> list[Result[Any]]:
        """Run step after step, all rows in one batch; a row whose answer has a problem stops at that step."""
        values = [self.chain.take(row, f"row {number}") for number, row in enumerate(rows)]
        results: list[dict[str, Result[Any]]] = [{} for _ in rows]
        problems: dict[int, str] = {}
        for place, (step, strategy) in enumerate(self._steps):
            active = [i for i in range(len(rows)) if i not in problems]
            where = f"chain {self.name!r}, step {step.name!r}"
            inputs: dict[int, dict[str, object]] = {}
            for i in active:
                try:
                    inputs[i] = step.inputs(values[i])
                except ForewordError as error:
                    if place == 0:
                        error.at(where)
                        raise
                    problems[i] = f"{where}: {error}"  # what an earlier step said does not fit: one row's problem
            try:
                answered = strategy.batch(list(inputs.values()))
            except ForewordError as error:
                error.at(where)
                raise
            for i, result in zip(inputs, answered, strict=True):
                results[i][step.name] = result
                if result.problem is not None:
                    problems[i] = f"{where}, {result.problem}"
                else:
                    values[i][step.name] = result.value
            if on_rows:
                on_rows((place + 1) * len(rows), len(self._steps) * len(rows))
        return [self._combine_steps(steps, problems.get(i)) for i, steps in enumerate(results)]

    def _combine_steps(self, steps: Mapping[str, Result[Any]], problem: str | None) -> Result[Any]:
        usage = sum((result.usage for result in steps.values()), Usage())
        seconds = sum(result.seconds for result in steps.values())
        cuts = tuple(cut for result in steps.values() for cut in result.cuts)
        if problem is not None:
            text = list(steps.values())[-1].text if steps else ""
            return Result(text, None, usage, seconds, problem=problem, cuts=cuts, steps=steps)
        last = steps[self.chain.output]
        value, problem = read_value(self._read, last.parsed, None, f"chain {self.name!r}")
        return Result(last.text, value, usage, seconds, last.probabilities, problem, cuts, steps)


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


Answers = Prompt | Chain | Strategy | Callable[..., Any]
"""What `bind` makes a strategy of."""


def bind(
    item: Answers,
    model: LanguageModel,
    *,
    task: Task | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
) -> Strategy:
    """Make a strategy of a prompt, a chain or a Python function; a strategy is returned as it is.

    With a `task`, a prompt that declares no output answers one of the task's choices, and so does the output step of a
    chain. Raises UsageError if `item` cannot answer rows, ForewordError if the model cannot run it.
    """
    if isinstance(item, type):
        raise UsageError(f"{item!r} is a class; give an object of it, or a function")
    if isinstance(item, Prompt):
        return PromptStrategy(item.answering(task.choices) if task else item, model, sampling)
    if isinstance(item, Chain):
        return ChainStrategy(item.answering(task.choices) if task else item, model, sampling)
    if isinstance(item, Strategy):
        if item.kind not in get_args(Kind):
            raise UsageError(
                f"strategy {item.name!r} is of kind {item.kind!r}; it is one of {', '.join(get_args(Kind))}"
            )
        return item
    if callable(item):
        return Function.of(item)
    expect_prompt(item)  # its error says how to load a prompt by its name or its path
    raise UsageError(f"{item!r:.80} answers no rows; give a Prompt, a Chain, a function or a Strategy")
