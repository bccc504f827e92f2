"""What the calls of a program have cost, however they are nested. Knows results; knows no models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from foreword.flows.result import Result, Usage

_OPEN: ContextVar[tuple["Trace", ...]] = ContextVar("open_traces", default=())


@dataclass(frozen=True)
class Call:
    """One prompt that was called with one row."""

    prompt: str
    inputs: Mapping[str, object]
    result: Result[Any]


@dataclass
class Trace:
    """Calls of prompts in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)

    @property
    def usage(self) -> Usage:
        """Of all calls together."""
        return sum((call.result.usage for call in self.calls), Usage())

    @property
    def seconds(self) -> float:
        """Of all calls together; more than has passed where some ran side by side."""
        return sum(call.result.seconds for call in self.calls)


@contextmanager
def trace() -> Iterator[Trace]:
    """`with trace() as found:` collects every call of a prompt within, also in functions that it calls and awaits.

    Traces may be nested: a call is told to all that are open around it.
    """
    found = Trace()
    token = _OPEN.set((*_OPEN.get(), found))
    try:
        yield found
    finally:
        _OPEN.reset(token)


def tell(call: Call) -> None:
    """Add a call to all open traces."""
    for found in _OPEN.get():
        found.calls.append(call)
