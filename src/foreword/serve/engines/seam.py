"""The seam that every engine stands behind: requests go in, tokens come out. Knows no HTTP and no weights."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from foreword.backbone import Answer, Sampling
from foreword.errors import ForewordError
from foreword.prompts import Prompt


class QueueFullError(ForewordError):
    """As many requests wait as the engine takes, or as it takes for the prompt `key`; try again later."""

    def __init__(self, waiting: int, retry_after: float, key: str | None = None) -> None:
        whose = "" if key is None else f" for {key!r}"
        super().__init__(f"{waiting:,} requests{whose} are waiting already; try again in {retry_after:.0f} s")
        self.retry_after = retry_after
        """Seconds after which there should be room."""


class ClosedError(ForewordError):
    """The engine is shutting down and takes no more requests."""

    def __init__(self, message: str = "the engine is shutting down; send the request to another one") -> None:
        super().__init__(message)


class DeadlineError(ForewordError):
    """A request's deadline has passed before its answer was there."""


class ModelError(ForewordError):
    """The model failed on a request that was right."""


class NoAnswerError(ForewordError):
    """What was asked gave no valid answer; its message says which step of it, and why."""


class SchemaError(ForewordError):
    """This engine cannot constrain an answer to the schema that is asked for."""


@dataclass(frozen=True)
class Request:
    """One row to answer."""

    id: str
    prompt: Prompt
    """A concrete stored version, hard or soft."""
    key: str
    """`name:version`: what requests are queued fairly by, and counted under."""
    inputs: Mapping[str, object]
    sampling: Sampling
    deadline: float | None = None
    """When the answer must be there, by `time.monotonic()`; None: whenever."""
    logprobs: int = 0
    """How many of the likeliest tokens are told at every place, besides the one chosen; 0: no log-probabilities."""
    schema: Mapping[str, Any] | None = None
    """The JSON Schema that decoding is constrained to, as `prompts.schema.checked` leaves it. The schema says where the
    answer ends; stop strings are not looked for."""

    @property
    def loop_deadline(self) -> float | None:
        """The deadline by the running event loop's clock."""
        if self.deadline is None:
            return None
        return asyncio.get_running_loop().time() + self.deadline - time.monotonic()


@dataclass(frozen=True)
class Token:
    """One token of an answer, or text that was held back until its end."""

    text: str
    """The text that is certain now; empty while a character is half done, or a stop string may have begun."""
    ids: tuple[int, ...]
    """The token; none where text that was held back is released at the end."""
    logprob: float | None
    """In nats, by the model's own distribution: neither temperature nor a mask counts."""
    top: tuple[tuple[str, float], ...]
    """The likeliest tokens at this place with their log-probabilities, likeliest first."""


@dataclass(frozen=True)
class Finished:
    """How an answer ended; it is the last item of every stream."""

    reason: Literal["stop", "length", "cancelled", "deadline", "error"]
    prompt_tokens: int
    """Tokens of the prompt, virtual ones and the shared prefix counted."""
    cached_tokens: int
    """Those of them that stood in a prefix cache."""
    completion_tokens: int
    """Tokens of the answer, the one that ends it not counted."""
    error: str | None = None
    """What went wrong, where the reason is `error`."""


@dataclass(frozen=True)
class Stats:
    """What an engine does at the moment, and has done since it began."""

    running: int
    """Requests that have a place in the batch."""
    waiting: int
    """Accepted requests without one."""
    kv_used: int
    """Bytes of keys and values that running rows have reserved."""
    kv_total: int
    """Bytes of keys and values that there is room for."""
    prefix_caches: int
    """Shared prefixes whose keys and values are kept."""
    prefix_cache_bytes: int
    """Bytes that they take."""
    prefix_cache_total: int
    """Bytes that they may take."""
    prefix_cache_hits: int
    """Requests whose shared prefix was cached."""
    prefix_cache_misses: int
    """Requests whose shared prefix had to be computed."""
    steps: int
    """Times that the model has run."""
    step_rows: int
    """Rows that wrote a token, summed over all steps; by `steps`, the mean batch."""
    last_rows: int
    """Rows that wrote a token in the last step."""
    prompt_tokens: int
    """Tokens that the model has read, shared prefixes included."""
    completion_tokens: int
    """Tokens written."""
    errors: int
    """Rows that the model failed on."""
    broken: bool = False
    """Whether nothing can be answered any more until the server is started again."""


class Engine(Protocol):
    """Answers many requests at once, each with a prompt of its own."""

    @property
    def context(self) -> int:
        """Tokens of the longest row that it can run, prompt and answer together."""
        ...

    def check(self, prompt: Prompt) -> None:
        """Raises ForewordError for a prompt that cannot run here, before it is served."""
        ...

    async def generate(self, request: Request) -> AsyncIterator[Token | Finished]:
        """The answer as it is written; the last item is a `Finished`. Closing the iterator frees the row.

        Raises QueueFullError, or ClosedError, at once; SchemaError for a schema that it cannot decode by; ForewordError
        where the prompt, its vectors or its inputs cannot be run here.
        """
        ...

    async def classify(self, request: Request) -> Answer:
        """The likeliest of the prompt's choices.

        Raises as `generate` does; DeadlineError or ModelError where what was begun does not come to its end.
        """
        ...

    def stats(self) -> Stats:
        """The figures of this moment. Cheap, and safe from any thread."""
        ...

    async def close(self, grace: float) -> None:
        """Take no more, finish what was accepted within `grace` seconds, cancel the rest, and end."""
        ...


@runtime_checkable
class TextScoringEngine(Protocol):
    """What some engines can do besides: tell how likely a text is."""

    async def score_text(self, request: Request) -> Sequence[Token]:
        """The prompt's own tokens, the first without a log-probability; and the likeliest behind them.

        For prompts without virtual tokens. Raises as `generate` does.
        """
        ...
