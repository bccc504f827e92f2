"""The result of answering a row, and its usage of a model. Knows answers; knows no models."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from foreword.errors import ForewordError
from foreword.prompts import Cut

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """The tokens and calls that answers took; usages add up with `+`."""

    prompt_tokens: int = 0
    """The tokens that the model read, virtual tokens and the shared prefix included."""
    completion_tokens: int = 0
    """The tokens that the model generated; 0 if choices were scored."""
    cached_tokens: int = 0
    """The part of `prompt_tokens` that came from a prefix cache."""
    scored_tokens: int = 0
    """The tokens of all choices, if choices were scored; else 0."""
    calls: int = 0
    """The number of rows that a model answered."""

    @property
    def computed_tokens(self) -> int:
        """Return the tokens that were computed: all that were read, scored or generated and not in a prefix cache."""
        return self.prompt_tokens - self.cached_tokens + self.scored_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


@dataclass(frozen=True)
class Result(Generic[T]):
    """An answer with its typed value.

    A call never fails because of what a model answers: an answer that is not of the form asked for has a `problem`, and
    reading its `value` raises. So one bad row does not fail a batch, and no program goes on with a None.
    """

    text: str
    """The text that the model generated; with choices, the one chosen."""
    parsed: T | None
    """The same as `value`, but None if there is a `problem`."""
    usage: Usage
    seconds: float
    """The wall time; rows of one batch get equal shares."""
    probabilities: Mapping[str, float] | None = None
    """The probability of each choice, as compared (calibrated if the prompt is); None if the model returns none."""
    problem: str | None = None
    """Why the answer is not of the form asked for: it is no choice, or its JSON is incomplete or breaks the schema."""
    cuts: tuple[Cut, ...] = ()
    """The inputs that were truncated to their token budgets; for a chain, those of all steps."""
    steps: Mapping[str, "Result[Any]"] = field(default_factory=dict)
    """The result of each step by name, in order; empty unless this is the result of a chain."""

    @property
    def value(self) -> T:
        """Return the typed answer: a choice, parsed JSON, or the text. Raises ForewordError if there is a `problem`."""
        if self.problem is not None:
            raise ForewordError(self.problem)
        return self.parsed  # type: ignore[return-value]  # None only beside a problem, or as the value itself
