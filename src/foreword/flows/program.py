"""A strategy as a Python function: called with a row's inputs by keyword, awaited, and typed."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from foreword.backbone import LanguageModel, Sampling
from foreword.errors import UsageError
from foreword.flows.bound import ChainStrategy, PromptStrategy
from foreword.flows.chain import Chain
from foreword.flows.result import Result
from foreword.flows.returns import returning
from foreword.flows.strategy import Cost, Function, Kind
from foreword.flows.threads import in_thread
from foreword.listen import Count
from foreword.prompts import Prompt
from foreword.prompts.prompt import expect_prompt

T = TypeVar("T")
Inputs = Mapping[str, object]


class Program(Generic[T]):
    """`sentiment = Program(prompt, model)`, then `sentiment(text="…")`: render, run, parse; near or far, hard or soft.

    `returns` is the type of the value: a Literal or an enum of the prompt's choices; a pydantic model, a dataclass or
    another type for JSON. A prompt that says nothing of its output is asked for that type. Without `returns` the value
    is a choice (str), what the JSON says (a dict, mostly), or the text, and `Program` is not typed further. A program
    is a `Strategy`: it can be compared and gated.

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
        self.model = model
        self._strategy: PromptStrategy | ChainStrategy
        self.prompt: Prompt | Chain
        if isinstance(prompt, Chain):
            asked, read = returning(prompt.last, returns)
            self.prompt = prompt.ending(asked)
            self._strategy = ChainStrategy(self.prompt, model, sampling, read)
        else:
            self.prompt, read = returning(expect_prompt(prompt), returns)
            self._strategy = PromptStrategy(self.prompt, model, sampling, read)

    def __repr__(self) -> str:
        return f"Program({self.name!r}, {self.model.name!r})"

    @property
    def name(self) -> str:
        """The prompt's, or the chain's."""
        return self._strategy.name

    @property
    def kind(self) -> Kind:
        """`hard` or `soft` of a prompt, `flow` of a chain."""
        return self._strategy.kind

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return self._strategy.takes

    @property
    def cost(self) -> Cost:
        """What it took to make its prompts."""
        return self._strategy.cost

    @property
    def detail(self) -> str:
        """What it is, in a line."""
        return self._strategy.detail

    def __call__(self, /, **inputs: object) -> Result[T]:
        """The answer to one row. Raises UsageError on a missing, unknown or ill-typed input."""
        check(self.prompt, inputs)
        return self.batch([inputs])[0]

    def take(self, row: Mapping[str, str], where: str) -> dict[str, object]:
        """Its inputs out of a row of texts; see `Strategy.take`."""
        return self._strategy.take(row, where)

    def batch(self, rows: Sequence[Inputs], on_rows: Count | None = None) -> list[Result[T]]:
        """One result per row, in order, in one batch on the backbone. A row may hold more than the inputs."""
        return self._strategy.batch(rows, on_rows)

    async def acall(self, /, **inputs: object) -> Result[T]:
        """The same, awaited. A model answers `model.parallel` calls at once; others wait."""
        return await in_thread(self.model, lambda: self(**inputs))

    async def abatch(self, rows: Sequence[Inputs]) -> list[Result[T]]:
        """The same, awaited."""
        return await in_thread(self.model, lambda: self.batch(rows))


def check(item: Prompt | Chain | Function, inputs: Mapping[str, Any]) -> None:
    """Raises UsageError where `inputs` are not what the prompt, chain or function takes, all of it and nothing else."""
    if isinstance(item, Prompt):
        item.fill(inputs)
        return
    what, takes = ("chain", item.inputs) if isinstance(item, Chain) else ("function", (*item.takes, *item.optional))
    item.take(inputs, "the call")
    if unknown := [name for name in inputs if name not in takes]:
        raise UsageError(f"{what} {item.name!r} has no input {unknown[0]!r}; it takes {list(takes)}")
