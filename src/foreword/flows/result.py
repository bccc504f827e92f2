"""What a call of a prompt gives back. Knows no models."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from foreword.errors import ForewordError
from foreword.prompts import Cut

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """What calls took of a model; they add up with `+`."""

    prompt_tokens: int = 0
    """Tokens that the model read, virtual ones and the shared prefix counted."""
    completion_tokens: int = 0
    """Tokens that it wrote; 0 where choices were scored."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that came from a prefix cache."""
    scored_tokens: int = 0
    """Tokens of all choices, where choices were scored."""
    calls: int = 0
    """Rows that a model was given."""

    @property
    def computed_tokens(self) -> int:
        """Tokens that had to be computed: all that were read, scored or written and not in a prefix cache."""
        return self.prompt_tokens - self.cached_tokens + self.scored_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


@dataclass(frozen=True)
class Result(Generic[T]):
    """An answer, read.

    A call never fails for what a model has said: an answer that is not what was asked for has a `problem`, and asking
    for its `value` raises. So one bad row does not take a batch with it, and no program goes on with a None.
    """

    text: str
    """What the model said; with choices, the one chosen."""
    parsed: T | None
    """`value`, or None where there is a `problem`."""
    usage: Usage
    seconds: float
    """Wall time; of a batch, this row's share in equal parts."""
    probabilities: Mapping[str, float] | None = None
    """With choices: of each, as it was compared. None where the model does not tell."""
    problem: str | None = None
    """Why the answer is not what was asked for: none of the choices, JSON cut off or not by the schema."""
    cuts: tuple[Cut, ...] = ()
    """What was left out of the inputs to hold their token budgets; of a chain, by all steps."""
    steps: Mapping[str, "Result[Any]"] = field(default_factory=dict)
    """Of a chain, the result of each step by name, in order."""

    @property
    def value(self) -> T:
        """The typed answer: one of the choices, what the JSON says, or the text. Raises ForewordError by `problem`."""
        if self.problem is not None:
            raise ForewordError(self.problem)
        return self.parsed  # type: ignore[return-value]  # None only beside a problem, or as the value itself
