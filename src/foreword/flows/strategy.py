"""The protocol of a strategy: a prompt on a backbone, a chain, a classifier or any Python function that answers rows.

Comparison, gates, search and serving take strategies and need nothing else of them. Knows results; knows no models.
"""

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

from foreword.errors import ForewordError, UsageError
from foreword.flows.result import Result
from foreword.flows.trace import trace
from foreword.listen import Count

Kind = Literal["baseline", "hard", "soft", "flow", "lora"]
"""The kinds of strategy: without a language model; a hard or soft prompt; several calls or code; adapted weights."""


@dataclass(frozen=True)
class Cost:
    """What it took to make a strategy, before its first answer."""

    trained_parameters: int = 0
    """The number of trained parameters."""
    labelled_rows: int = 0
    """The number of labelled training rows that the strategy was made from."""


@runtime_checkable
class Strategy(Protocol):
    """Whatever answers rows. A result holds the tokens, calls and seconds of its row; `cost` what making it took."""

    @property
    def name(self) -> str:
        """The name of the strategy in tables and reports."""
        ...

    @property
    def kind(self) -> Kind:
        """The kind of strategy."""
        ...

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the inputs."""
        ...

    @property
    def cost(self) -> Cost:
        """What it took to make the strategy."""
        ...

    @property
    def detail(self) -> str:
        """One line that says what the strategy is."""
        ...

    def take(self, row: Mapping[str, str], where: str) -> Mapping[str, object]:
        """Return the inputs out of a row of texts that may hold more.

        Raises UsageError, which names `where` the row is, if one is missing or ill-typed.
        """
        ...

    def batch(self, rows: Sequence[Mapping[str, object]], on_rows: Count | None = None) -> Sequence[Result[Any]]:
        """Answer rows: one result per row, in order. `on_rows` is called with (rows done, rows in all)."""
        ...


@dataclass(frozen=True)
class Function:
    """A Python function as a strategy: it is called with a row's inputs by keyword, and returns a text or a `Result`.

    The inputs are its parameters; one with a default is passed if the row has it. `Function.of` makes one.
    """

    name: str
    call: Callable[..., Any]
    takes: tuple[str, ...]
    optional: tuple[str, ...] = ()
    kind: Kind = "flow"
    cost: Cost = Cost()
    detail: str = ""

    @staticmethod
    def of(call: Callable[..., Any], name: str | None = None, kind: Kind = "flow", cost: Cost = Cost()) -> "Function":
        """Make a strategy of `call`, named `name` or after it. Raises UsageError if it cannot take a row's inputs."""
        named = name or getattr(call, "__name__", "") or type(call).__name__
        if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None)):  # noqa: B004
            raise UsageError(f"{named!r} is an async function; give a plain one that waits for its own calls")
        try:
            parameters = inspect.signature(call).parameters.values()
        except (TypeError, ValueError) as error:
            raise UsageError(f"{named!r} has no readable signature; wrap it: lambda text: …") from error
        takes: list[str] = []
        optional: list[str] = []
        bound = call.keywords if isinstance(call, functools.partial) else {}
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise UsageError(
                    f"{named!r} has the parameter {str(parameter)!r}; a row's inputs are given by keyword, "
                    "so name each one"
                )
            if parameter.name not in bound:  # a row does not change what has been decided
                (takes if parameter.default is parameter.empty else optional).append(parameter.name)
        detail = (inspect.getdoc(call) or "").partition("\n")[0] if inspect.isroutine(call) else ""
        return Function(named, call, tuple(takes), tuple(optional), kind, cost, detail or "a Python function")

    def take(self, row: Mapping[str, str], where: str) -> Mapping[str, object]:
        """Return the row's values for the function's parameters. Raises UsageError if a required one is missing."""
        for name in self.takes:
            if name not in row:
                raise UsageError(f"{where}: {self.name!r} needs the input {name!r}; the row has {list(row)}")
        return {name: row[name] for name in (*self.takes, *self.optional) if name in row}

    def batch(self, rows: Sequence[Mapping[str, object]], on_rows: Count | None = None) -> list[Result[Any]]:
        """Call the function once per row, in order. Raises ForewordError if it raises, or returns anything else.

        Calls of prompts within the function count as the row's: their tokens and their number stand in its result.
        """
        results: list[Result[Any]] = []
        for row in rows:
            results.append(self._answer(row, len(results)))
            if on_rows:
                on_rows(len(results), len(rows))
        return results

    def _answer(self, row: Mapping[str, object], number: int) -> Result[Any]:
        began = time.perf_counter()
        try:
            with trace() as calls:
                answer = self.call(**row)
        except ForewordError:
            raise
        except (Exception, SystemExit) as error:  # somebody else's code
            raise ForewordError(f"{self.name!r} raised {type(error).__name__} on row {number}: {error}") from error
        seconds = time.perf_counter() - began
        if isinstance(answer, Result):
            return replace(answer, usage=calls.usage if calls.calls else answer.usage, seconds=seconds)
        if not isinstance(answer, str):
            raise ForewordError(f"{self.name!r} returned {answer!r:.80} on row {number}; return a text, or a Result")
        return Result(answer, answer, calls.usage, seconds)
