"""Runs a chain on a model, step after step, as a strategy. Knows the model through its seam only."""

from collections.abc import Mapping
from typing import Any

from foreword.backbone import LanguageModel, Sampling
from foreword.errors import ForewordError
from foreword.flows.chain import Chain
from foreword.flows.prompt_strategy import PromptStrategy, Rows, cost_of, read_value
from foreword.flows.result import Result, Usage
from foreword.flows.returns import Read, identity
from foreword.flows.strategy import Cost, Kind
from foreword.listen import Count


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
