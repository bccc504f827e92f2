"""Traces: records every call of a prompt and its cost, however calls are nested. Knows results; knows no models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from foreword.flows.result import Result, Usage

_OPEN: ContextVar[tuple["Trace", ...]] = ContextVar("open_traces", default=())


@dataclass(frozen=True)
class Call:
    """One call of a prompt with one row."""

    prompt: str
    inputs: Mapping[str, object]
    result: Result[Any]


@dataclass
class Trace:
    """The calls of prompts, in the order in which they ended."""

    calls: list[Call] = field(default_factory=list)

    @property
    def usage(self) -> Usage:
        """Return the usage of all calls together."""
        return sum((call.result.usage for call in self.calls), Usage())

    @property
    def seconds(self) -> float:
        """Return the seconds of all calls together; more than the wall time if some ran in parallel."""
        return sum(call.result.seconds for call in self.calls)


@contextmanager
def trace() -> Iterator[Trace]:
    """Record every call of a prompt within `with trace() as calls:`, also in functions that it calls and awaits.

    Traces may be nested: a call is recorded by all that are open around it.
    """
    recorded = Trace()
    token = _OPEN.set((*_OPEN.get(), recorded))
    try:
        yield recorded
    finally:
        _OPEN.reset(token)


def record(call: Call) -> None:
    """Add a call to all open traces."""
    for open_trace in _OPEN.get():
        open_trace.calls.append(call)
