"""The seam for whatever answers rows: a prompt on a backbone, a chain, a classifier, any Python function.

Whoever compares, gates, searches or serves takes strategies and asks nothing else of them. Knows no models.
"""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from foreword.errors import ForewordError, UsageError
from foreword.flows.result import Result, Usage
from foreword.listen import Count

Kind = Literal["baseline", "hard", "soft", "flow", "lora"]
"""What a strategy is: needs no language model; a hard or a soft prompt; several calls or code; adapted weights."""


@dataclass(frozen=True)
class Cost:
    """What a strategy took before its first answer."""

    trained_parameters: int = 0
    labelled_rows: int = 0
    """Labelled training rows that it was made from."""


@runtime_checkable
class Strategy(Protocol):
    """Answers rows. A row's own figures (tokens, calls, seconds) stand in its result, what it took before in `cost`."""

    @property
    def name(self) -> str:
        """What tables and reports call it."""
        ...

    @property
    def kind(self) -> Kind:
        """Which kind of strategy it is."""
        ...

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of its inputs."""
        ...

    @property
    def cost(self) -> Cost:
        """What it took before its first answer."""
        ...

    @property
    def detail(self) -> str:
        """What it is, in a line."""
        ...

    def take(self, row: Mapping[str, str], where: str) -> Mapping[str, object]:
        """Its inputs out of a row of texts that may hold more. Raises UsageError, which names `where` the row stands,
        when one is missing or is not what it must be.
        """
        ...

    def batch(self, rows: Sequence[Mapping[str, object]], on_rows: Count | None = None) -> Sequence[Result[Any]]:
        """One result per row, in order; `on_rows` hears of (rows done, rows in all)."""
        ...


@dataclass(frozen=True)
class Function:
    """A Python function as a strategy: it is called with a row's inputs by keyword, and returns a text or a `Result`.

    Its inputs are its parameters; one with a default is taken where the row has it. Make one with `Function.of`.
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
        """Raises UsageError where rows cannot be given to `call`."""
        named = name or getattr(call, "__name__", "") or type(call).__name__
        if inspect.iscoroutinefunction(call):
            raise UsageError(f"{named!r} is an async function; give a plain one that waits for its own calls")
        try:
            parameters = inspect.signature(call).parameters.values()
        except (TypeError, ValueError) as error:
            raise UsageError(f"{named!r} does not tell its parameters; wrap it: lambda text: …") from error
        takes: list[str] = []
        optional: list[str] = []
        for one in parameters:
            if one.kind in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL, one.VAR_KEYWORD):
                raise UsageError(
                    f"{named!r} has the parameter {str(one)!r}; a row's inputs are given by keyword, so name each one"
                )
            (takes if one.default is one.empty else optional).append(one.name)
        detail = (inspect.getdoc(call) or "").partition("\n")[0] if inspect.isroutine(call) else ""
        return Function(named, call, tuple(takes), tuple(optional), kind, cost, detail or "a Python function")

    def take(self, row: Mapping[str, str], where: str) -> Mapping[str, object]:
        """Those of the row's values that are parameters."""
        for name in self.takes:
            if name not in row:
                raise UsageError(f"{where}: {self.name!r} needs the input {name!r}; the row has {list(row)}")
        return {name: row[name] for name in (*self.takes, *self.optional) if name in row}

    def batch(self, rows: Sequence[Mapping[str, object]], on_rows: Count | None = None) -> list[Result[Any]]:
        """One call per row, in order. Raises ForewordError where the function raises, or returns something else."""
        results: list[Result[Any]] = []
        for row in rows:
            results.append(self._one(row, len(results)))
            if on_rows:
                on_rows(len(results), len(rows))
        return results

    def _one(self, row: Mapping[str, object], number: int) -> Result[Any]:
        began = time.perf_counter()
        try:
            said = self.call(**row)
        except ForewordError:
            raise
        except Exception as error:  # somebody else's code
            raise ForewordError(f"{self.name!r} raised {type(error).__name__} on row {number}: {error}") from error
        if isinstance(said, Result):
            return said
        if not isinstance(said, str):
            raise ForewordError(f"{self.name!r} returned {said!r:.80} on row {number}; return a text, or a Result")
        return Result(said, said, Usage(), time.perf_counter() - began)
