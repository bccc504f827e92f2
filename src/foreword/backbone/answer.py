"""The seam that every model stands behind, near or far: prompts and inputs go in, answers come out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from foreword.errors import UsageError
from foreword.prompts import Cut, Prompt

Inputs = Mapping[str, object]
"""One row: a value per variable; text, unless the prompt declares another type."""
OnRows = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


TEXT_TOKENS, JSON_TOKENS = 64, 512
"""Tokens that are written at most where nobody says how many: for text, and for JSON by a schema."""


@dataclass(frozen=True)
class Sampling:
    """How text is generated. Temperature 0 is greedy."""

    max_tokens: int | None = None
    """None: 64, or 512 for JSON by a schema."""
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = field(default=())
    """Texts before which an answer ends; JSON by a schema ends by itself, and they are not looked for."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit() < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or "" in self.stop:
            raise UsageError(f"{self}: max_tokens is 1 or more, temperature 0 or more, top_p above 0 and at most 1")

    def limit(self, prompt: Prompt | None = None) -> int:
        """Tokens that an answer to `prompt` has at most."""
        json = prompt is not None and prompt.output.json_schema is not None
        return self.max_tokens if self.max_tokens is not None else JSON_TOKENS if json else TEXT_TOKENS


@dataclass(frozen=True)
class Answer:
    """What a model said to one row."""

    text: str
    """What was generated; for a prompt with choices, the one chosen."""
    value: Any
    """`text` where it is a valid answer: one of the choices if the prompt has any, what the JSON says if it has a
    schema; None where it is not valid, and `problem` says why."""
    log_likelihoods: tuple[float, ...] | None
    """Per choice, nats, summed over the answer's tokens; None where the model does not tell."""
    prompt_tokens: int
    """Tokens that the model read, virtual ones and the shared prefix counted."""
    answer_tokens: int
    """Tokens that were generated; 0 where choices were scored."""
    probabilities: tuple[float, ...] | None = None
    """Per choice, calibrated where the prompt is; the largest is chosen. None where the model does not tell."""
    problem: str | None = None
    """What is wrong with an answer that is not valid."""
    cuts: tuple[Cut, ...] = ()
    """What was left out of the row's inputs to hold their token budgets."""
    cached_tokens: int = 0
    """Those of `prompt_tokens` that were computed once for all rows of the prompt, and not for this row."""
    scored_tokens: int = 0
    """Tokens of all choices together, where choices were scored."""


class LanguageModel(Protocol):
    """A model that answers prompts."""

    name: str
    parallel: int
    """Calls that it answers at the same time; more than that only wait."""

    def check(self, prompt: Prompt) -> None:
        """Raise ForewordError when this model cannot run `prompt`."""
        ...

    def answer(
        self, prompt: Prompt, rows: Sequence[Inputs], sampling: Sampling = ..., on_rows: OnRows | None = None
    ) -> list[Answer]:
        """One answer per row, in order."""
        ...
