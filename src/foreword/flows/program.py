"""A prompt, or a chain of prompts, as a Python function. Knows models through their seam only."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from foreword.backbone import LanguageModel, Sampling
from foreword.errors import ForewordError, UsageError
from foreword.flows.chain import Chain, Step
from foreword.flows.result import Result, Usage
from foreword.flows.returns import Read, returning
from foreword.flows.threads import in_thread
from foreword.flows.trace import Call, tell
from foreword.prompts import Prompt
from foreword.prompts.prompt import expect

T = TypeVar("T")
Row = Mapping[str, object]


class Program(Generic[T]):
    """`sentiment = Program(prompt, model)`, then `sentiment(text="…")`: render, run, parse; near or far, hard or soft.

    `returns` is the type of the value: a Literal or an enum of the prompt's choices; a pydantic model, a dataclass or
    another type for JSON. A prompt that says nothing of its output is asked for that type. Without `returns` the value
    is a choice (str), what the JSON says (a dict, mostly), or the text, and `Program` is not typed further.

    Raises ForewordError where the model cannot run the prompt, UsageError where the type does not fit it.
    """

    @overload
    def __init__(
        self: "Program[Any]", prompt: Prompt | Chain, model: LanguageModel, *, sampling: Sampling = ...
    ) -> None: ...
    @overload
    def __init__(
        self: "Program[T]", prompt: Prompt | Chain, model: LanguageModel, *, returns: type[T], sampling: Sampling = ...
    ) -> None: ...
    @overload  # Literal and unions are no classes to a type checker: `sentiment: Program[Sentiment] = …` tells it
    def __init__(
        self: "Program[Any]", prompt: Prompt | Chain, model: LanguageModel, *, returns: Any, sampling: Sampling = ...
    ) -> None: ...
    def __init__(
        self,
        prompt: Prompt | Chain,
        model: LanguageModel,
        *,
        returns: Any = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ) -> None:
        self.prompt, self.model, self.sampling = prompt, model, sampling
        self._steps: list[tuple[Step, Program[Any]]] = []
        self._read: Read
        if isinstance(prompt, Chain):
            for step in prompt.steps:
                asked = step.prompt
                if step.name == prompt.output:  # read at the end: later steps take apart what the JSON says
                    asked, self._read = returning(asked, returns)
                self._steps.append((step, Program(asked, model, sampling=sampling)))
        else:
            self.prompt, self._read = returning(expect(prompt), returns)
            model.check(self.prompt)

    def __repr__(self) -> str:
        return f"Program({self.prompt.name!r}, {self.model.name!r})"

    def __call__(self, /, **inputs: object) -> Result[T]:
        """The answer to one row. Raises UsageError on a missing, unknown or ill-typed input."""
        check(self.prompt, inputs)
        return self._run([inputs], [f"the call of {self.prompt.name!r}"])[0]

    def batch(self, rows: Sequence[Row]) -> list[Result[T]]:
        """One result per row, in order, in one batch on the backbone. A row may hold more than the inputs."""
        return self._run(rows, [f"row {number}" for number in range(len(rows))])

    async def acall(self, /, **inputs: object) -> Result[T]:
        """The same, awaited. A model answers `model.parallel` calls at once; others wait."""
        return await in_thread(self.model, lambda: self(**inputs))

    async def abatch(self, rows: Sequence[Row]) -> list[Result[T]]:
        """The same, awaited."""
        return await in_thread(self.model, lambda: self.batch(rows))

    def _run(self, rows: Sequence[Row], places: Sequence[str]) -> list[Result[T]]:
        taken = [self.prompt.take(row, place) for row, place in zip(rows, places, strict=True)]
        if not taken:
            return []
        if isinstance(self.prompt, Chain):
            return self._run_chain(self.prompt, taken)
        began = time.perf_counter()
        answers = self.model.answer(self.prompt, taken, self.sampling)
        share = (time.perf_counter() - began) / len(taken)
        results: list[Result[T]] = []
        for row, answer in zip(taken, answers, strict=True):
            value, problem = self._value(answer.value, answer.problem)
            likely = answer.probabilities
            likely_of = None if likely is None else dict(zip(self.prompt.output.choices or (), likely, strict=True))
            usage = Usage(answer.prompt_tokens, answer.answer_tokens)
            results.append(Result(answer.text, value, usage, share, likely_of, problem, answer.cuts))
            tell(Call(self.prompt.name, row, results[-1]))
        return results

    def _run_chain(self, chain: Chain, rows: Sequence[Row]) -> list[Result[T]]:
        """Step by step, all rows in one batch; a row whose answer has a problem stops there."""
        values = [dict(row) for row in rows]
        found: list[dict[str, Result[Any]]] = [{} for _ in rows]
        problems: dict[int, str] = {}
        for step, program in self._steps:
            going = [i for i in range(len(rows)) if i not in problems]
            try:
                inputs = [step.inputs(values[i]) for i in going]
                results = program.batch(inputs)
            except ForewordError as error:
                raise type(error)(f"chain {chain.name!r}, step {step.name!r}: {error}") from error
            for i, result in zip(going, results, strict=True):
                found[i][step.name] = result
                if result.problem is not None:
                    problems[i] = f"chain {chain.name!r}, step {step.name!r}, {result.problem}"
                else:
                    values[i][step.name] = result.value
        return [self._of_chain(chain, steps, problems.get(i)) for i, steps in enumerate(found)]

    def _of_chain(self, chain: Chain, steps: Mapping[str, Result[Any]], problem: str | None) -> Result[T]:
        usage = sum((result.usage for result in steps.values()), Usage())
        seconds = sum(result.seconds for result in steps.values())
        cuts = tuple(cut for result in steps.values() for cut in result.cuts)
        if problem is not None:
            text = list(steps.values())[-1].text
            return Result(text, None, usage, seconds, problem=problem, cuts=cuts, steps=steps)
        last = steps[chain.output]
        value, problem = self._value(last.parsed, None)
        return Result(last.text, value, usage, seconds, last.probabilities, problem, cuts, steps)

    def _value(self, value: Any, problem: str | None) -> tuple[Any, str | None]:
        """The typed value of a valid answer; or None, and what is wrong."""
        if problem is None:
            try:
                return self._read(value), None
            except ValueError as error:
                problem = str(error)
        kind = "chain" if isinstance(self.prompt, Chain) else "prompt"
        return None, f"{kind} {self.prompt.name!r}: {problem}"


def check(prompt: Prompt | Chain, inputs: Row) -> None:
    """Raises UsageError where `inputs` are not what the prompt or chain takes, all of it and nothing else."""
    if isinstance(prompt, Prompt):
        prompt.fill(inputs)
        return
    prompt.take(inputs, "the call")
    if unknown := [name for name in inputs if name not in prompt.inputs]:
        raise UsageError(f"chain {prompt.name!r} has no input {unknown[0]!r}; it takes {list(prompt.inputs)}")
