"""A prompt or a chain as a typed Python function that can be awaited. Knows strategies; knows no tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from foreword.backbone import LanguageModel, Sampling
from foreword.errors import UsageError
from foreword.flows.chain import Chain
from foreword.flows.chain_strategy import ChainStrategy
from foreword.flows.prompt_strategy import PromptStrategy
from foreword.flows.result import Result
from foreword.flows.returns import returning
from foreword.flows.strategy import Cost, Function, Kind, Strategy
from foreword.flows.threads import in_thread
from foreword.listen import Count
from foreword.prompts import Prompt, expect_prompt

T = TypeVar("T")
Inputs = Mapping[str, object]


class Program(Generic[T]):
    """A function of a prompt and a model: `sentiment = Program(prompt, model)`, then `sentiment(text="…")`.

    A call renders the prompt, runs it and parses the answer, whether the model is local or remote. `returns` is the
    type of the value: a Literal or an enum of the prompt's choices; a pydantic model, a dataclass or another type for
    JSON. A prompt that declares no output is asked for that type. Without `returns` the value is a choice (str), parsed
    JSON (mostly a dict) or the text, and its static type is Any. A program is a `Strategy`: it can be compared and
    gated.

    Raises ForewordError if the model cannot run the prompt, UsageError if the type does not fit it.
    """

    @overload
    def __init__(
        self: "Program[Any]", prompt: Prompt | Chain, model: LanguageModel, *, sampling: Sampling = ...
    ) -> None: ...
    @overload
    def __init__(
        self: "Program[T]", prompt: Prompt | Chain, model: LanguageModel, *, returns: type[T], sampling: Sampling = ...
    ) -> None: ...
    @overload  # a type checker takes Literal and unions for no classes: annotate `sentiment: Program[Sentiment] = …`
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
        """The name of the prompt or the chain."""
        return self._strategy.name

    @property
    def kind(self) -> Kind:
        """The kind: `hard` or `soft` for a prompt, `flow` for a chain."""
        return self._strategy.kind

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return self._strategy.takes

    @property
    def cost(self) -> Cost:
        """What it took to make the prompts."""
        return self._strategy.cost

    @property
    def detail(self) -> str:
        """One line that says what the program is."""
        return self._strategy.detail

    def __call__(self, /, **inputs: object) -> Result[T]:
        """Answer one row. Raises UsageError on a missing, unknown or ill-typed input."""
        check(self.prompt, inputs)
        return self.batch([inputs])[0]

    def take(self, row: Mapping[str, str], where: str) -> dict[str, object]:
        """Return the inputs out of a row of texts; see `Strategy.take`."""
        return self._strategy.take(row, where)

    def batch(self, rows: Sequence[Inputs], on_rows: Count | None = None) -> list[Result[T]]:
        """Answer rows in one batch: one result per row, in order. A row may hold more than the inputs."""
        return self._strategy.batch(rows, on_rows)

    async def acall(self, /, **inputs: object) -> Result[T]:
        """Answer one row without blocking the event loop. `model.parallel` calls run at once; others wait."""
        return await in_thread(self.model, lambda: self(**inputs))

    async def abatch(self, rows: Sequence[Inputs]) -> list[Result[T]]:
        """Answer rows in one batch without blocking the event loop."""
        return await in_thread(self.model, lambda: self.batch(rows))


def check(item: Prompt | Chain | Strategy, inputs: Mapping[str, Any]) -> None:
    """Raise UsageError unless `inputs` are exactly what the prompt, chain or function takes."""
    if isinstance(item, Prompt):
        item.fill(inputs)
        return
    what, takes = ("chain", item.inputs) if isinstance(item, Chain) else ("function", item.takes)
    if isinstance(item, Function):
        takes = (*takes, *item.optional)
    item.take(inputs, "the call")
    if unknown := [name for name in inputs if name not in takes]:
        raise UsageError(f"{what} {item.name!r} has no input {unknown[0]!r}; it takes {list(takes)}")
