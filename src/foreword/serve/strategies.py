"""Chains and Python functions under served names: an engine that answers their requests, in front of the one that runs
the model.

A chain's steps are requests of that engine like all others, so that they share batches and prefix caches with them.
Knows strategies and the engine's seam; knows no HTTP.
"""

import asyncio
import concurrent.futures
import contextvars
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from foreword.backbone import Answer, Sampling
from foreword.errors import ForewordError, UsageError
from foreword.flows import Chain, Function, Result, Strategy, bind
from foreword.listen import Count
from foreword.prompts import PROMPT_NAME, Input, Output, Prompt
from foreword.prompts import schema as schemas
from foreword.serve.engines.seam import (
    ClosedError,
    DeadlineError,
    Engine,
    Finished,
    ModelError,
    NoAnswerError,
    QueueFullError,
    Request,
    Stats,
    Token,
)
from foreword.serve.log import failure
from foreword.serve.prompts import Served
from foreword.table import PromptTable

T = TypeVar("T")
THREADS = 16
"""The most strategies that run at the same time; each waits for its model most of the time."""
WAITING = 256
"""Requests that may wait for one of them."""
RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class ServedStrategy:
    """A chain or a function under a served name."""

    item: Chain | Function
    served: Served
    """Its key, and a prompt that says what it takes and what it answers; no model ever reads that."""


def serve_as_named(items: Sequence[Chain | Function], table: PromptTable) -> list[ServedStrategy]:
    """`items` under their own names. Raises UsageError where one cannot be a served name, or is taken."""
    served: list[ServedStrategy] = []
    for item in items:
        if not PROMPT_NAME.fullmatch(item.name):
            raise UsageError(
                f"{item.name!r} cannot be a served name: take a-z, 0-9, '.', '_' and '-', 100 characters at most"
            )
        if any(other.item.name == item.name for other in served):
            raise UsageError(f"two strategies are called {item.name!r}; rename one of them")
        served.append(ServedStrategy(item, Served(f"{item.name}:strategy", _face(item), strategy=True)))
    taken = {current.name for current in table.current()} if items else set()
    for item in items:
        if item.name in taken:
            raise UsageError(f"{item.name!r} is a prompt of the table already; rename the chain or function")
    return served


def _face(item: Chain | Function) -> Prompt:
    """A prompt that says what `item` takes and what it answers."""
    if isinstance(item, Chain):
        needed, inputs, output = item.inputs, item.inputs, item.last.output
    else:
        needed, inputs, output = item.takes, (*item.takes, *item.optional), Output()
    body = "".join(f"{{{{ {name} }}}}" for name in needed)
    return Prompt(item.name, body, {name: Input() for name in inputs}, output)


@dataclass
class _Call:
    """One request of a strategy, in its thread."""

    request: Request
    loop: asyncio.AbstractEventLoop
    waits_for: "concurrent.futures.Future[Any] | None" = None
    cancelled: bool = False
    steps: int = field(default=0)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives on the server's loop. Raises ModelError once nobody waits for the answer any more."""
        if self.cancelled:
            work.close()
            raise ModelError("the request was given up")
        self.waits_for = asyncio.run_coroutine_threadsafe(work, self.loop)
        found: T = self.waits_for.result()
        return found

    def cancel(self) -> None:
        """Let go of what the thread waits for; it ends at its next step."""
        self.cancelled = True
        if self.waits_for is not None:
            self.waits_for.cancel()


_CALL: ContextVar[_Call] = ContextVar("call")


class EngineModel:
    """An engine as a language model for the steps of a strategy. It is called in the thread of a request."""

    parallel = THREADS

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self.name = engine, name

    def check(self, prompt: Prompt) -> None:
        """As the engine has it."""
        self._engine.check(prompt)

    def answer(
        self,
        prompt: Prompt,
        rows: Sequence[Mapping[str, object]],
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        on_rows: Count | None = None,
    ) -> list[Answer]:
        """One answer per row, in order, each a request of its own under the deadline of the one that asks."""
        call = _CALL.get()
        answers = []
        for row in rows:
            answers.append(call.wait(self._ask(call, prompt, row, sampling)))
            if on_rows:
                on_rows(len(answers), len(rows))
        return answers

    async def _ask(self, call: _Call, prompt: Prompt, row: Mapping[str, object], sampling: Sampling) -> Answer:
        outer = call.request
        call.steps += 1
        limit = sampling.limit(prompt)
        if sampling.max_tokens is None:  # what is only a default leaves most of the context to the prompt
            limit = min(limit, max(1, self._engine.context // 4))
        own = replace(sampling, max_tokens=limit, stop=() if prompt.output.json_schema is not None else sampling.stop)
        asked = Request(
            f"{outer.id}.{call.steps}", prompt, outer.key, row, own, outer.deadline, schema=prompt.output.json_schema
        )
        if prompt.output.choices is not None:
            return await self._engine.classify(asked)
        text, end = "", None
        async for piece in await self._engine.generate(asked):
            if isinstance(piece, Finished):
                end = piece
            else:
                text += piece.text
        if end is None or end.reason == "error":
            raise ModelError()
        if end.reason in ("deadline", "cancelled"):
            raise DeadlineError()
        value, problem = _value(prompt, text.strip(), end, limit)
        read_tokens, written = end.prompt_tokens, end.completion_tokens
        return Answer(text.strip(), value, None, read_tokens, written, problem=problem, cached_tokens=end.cached_tokens)


def _value(prompt: Prompt, text: str, end: Finished, limit: int) -> tuple[Any, str | None]:
    """What an answer says, and what is wrong with it."""
    schema = prompt.output.json_schema
    if schema is None:
        return text, None
    try:
        return schemas.read(schema, text), None
    except ValueError as error:
        cut = f"; it was cut off after {limit:,} tokens: raise max_tokens" if end.reason == "length" else ""
        return None, f"{error}{cut}"


class StrategyEngine:
    """An `Engine` that runs `strategies` itself and hands all other requests to `engine`."""

    def __init__(self, engine: Engine, strategies: Sequence[ServedStrategy], backbone: str) -> None:
        """Raises ForewordError where the model cannot run a prompt of a chain, UsageError for the backbone's name."""
        self._engine, self._model = engine, EngineModel(engine, backbone)
        self._items = {one.served.key: one.item for one in strategies}
        for one in strategies:
            if one.item.name == backbone:
                raise UsageError(f"{backbone!r} is the backbone's own name; rename the chain or function")
            bind(one.item, self._model)
        self._pool = ThreadPoolExecutor(THREADS, "strategies")
        self._taken = 0

    def __getattr__(self, name: str) -> Any:
        """What some engines can do besides, `score_text` for one, is the other engine's."""
        return getattr(self._engine, name)

    @property
    def context(self) -> int:
        """As `Engine` has it."""
        return self._engine.context

    def check(self, prompt: Prompt) -> None:
        """As `Engine` has it."""
        self._engine.check(prompt)

    async def generate(self, request: Request) -> AsyncIterator[Token | Finished]:
        """As `Engine` has it; a strategy's answer comes in one piece."""
        if request.key not in self._items:
            return await self._engine.generate(request)
        self._refuse_when_full(request)
        return self._pieces(request)

    async def classify(self, request: Request) -> Answer:
        """As `Engine` has it."""
        if request.key not in self._items:
            return await self._engine.classify(request)
        self._refuse_when_full(request)
        result, usage = await self._run(request), None
        usage = result.usage
        choices = request.prompt.output.choices or ()
        likely = result.probabilities
        shares = tuple(likely[choice] for choice in choices) if likely is not None else None
        return Answer(
            result.text, result.text, None, usage.prompt_tokens, usage.completion_tokens, shares,
            cached_tokens=usage.cached_tokens,
        )  # fmt: skip

    def stats(self) -> Stats:
        """As `Engine` has it."""
        return self._engine.stats()

    async def close(self, grace: float) -> None:
        """As `Engine` has it; what strategies still ask of the engine is refused then."""
        await self._engine.close(grace)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _pieces(self, request: Request) -> AsyncIterator[Token | Finished]:
        result = await self._run(request)
        usage = result.usage
        if result.text:
            yield Token(result.text, (), None, ())
        yield Finished("stop", usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def _refuse_when_full(self, request: Request) -> None:
        if self._taken >= THREADS + WAITING:
            raise QueueFullError(self._taken, RETRY_SECONDS, request.key)

    async def _run(self, request: Request) -> Result[Any]:
        """The strategy's result for the request. Raises DeadlineError, NoAnswerError, ModelError, UsageError."""
        loop = asyncio.get_running_loop()
        call = _Call(request, loop)
        strategy = bind(self._items[request.key], self._model, sampling=request.sampling)
        context = contextvars.copy_context()
        context.run(_CALL.set, call)
        self._taken += 1
        left = None if request.deadline is None else request.deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                result = await loop.run_in_executor(self._pool, context.run, _one, strategy, request)
        except TimeoutError:
            raise DeadlineError() from None
        finally:
            self._taken -= 1
            call.cancel()
        if result.problem is not None:
            raise NoAnswerError(result.problem)
        return result


def _one(strategy: Strategy, request: Request) -> Result[Any]:
    """The result of one row. An error of somebody else's code is told to the log and not to the client."""
    try:
        [result] = strategy.batch([request.inputs])
        return result
    except (ClosedError, DeadlineError, ModelError, QueueFullError, UsageError):
        raise
    except Exception as error:
        if isinstance(error, ForewordError) and not isinstance(strategy, Function):
            raise
        failure("strategy", error, id=request.id, prompt=request.key)
        raise ModelError() from error
