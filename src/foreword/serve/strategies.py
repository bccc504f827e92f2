"""Chains and Python functions under served names: an engine that answers their requests, in front of the one that runs
the model.

A chain's steps are requests of that engine like all others, so that they share batches and prefix caches with them.
Knows strategies and the engine's seam; knows no HTTP.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

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
    TextScoringEngine,
    Token,
)
from foreword.serve.log import failure
from foreword.serve.prompts import Served
from foreword.table import PromptTable

T = TypeVar("T")
THREADS = 16
"""The most requests of one strategy that run at the same time; each waits for its model most of the time.

Every strategy has its own, so that one that hangs keeps no other from answering."""
WAITING = 64
"""The most further requests that may wait for one of them."""
QUEUE_RETRY_SECONDS = 2.0
"""After which a full queue is worth another try."""
LOOK_SECONDS = 0.05
"""Between two looks, while the server stops, at whether all strategies have ended."""


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
    given_up: bool = False
    steps: int = 0
    ended: dict[str, str] = field(default_factory=dict)
    """By a prompt's digest, why its last text ended: `stop` or `length`."""

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives on the server's loop. Raises GivenUpError once nobody waits for the answer any more."""
        if self.given_up:
            work.close()
            raise GivenUpError
        self.waits_for = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            result: T = self.waits_for.result()
        except concurrent.futures.CancelledError:
            raise GivenUpError from None
        return result

    def give_up(self) -> None:
        """Let go of what the thread waits for; it ends at its next step."""
        self.given_up = True
        if self.waits_for is not None:
            self.waits_for.cancel()


class GivenUpError(ForewordError):
    """Nobody waits for this answer any more."""


_CALL: ContextVar[_Call] = ContextVar("call")


class EngineModel:
    """An engine as a language model for the steps of a strategy. It is called in the thread of a request."""

    parallel = THREADS

    def __init__(self, engine: Engine, name: str, max_tokens: int) -> None:
        """`max_tokens` is the most that a step may write, whatever is asked for."""
        self._engine, self.name, self._max_tokens = engine, name, max_tokens

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
            limit = min(limit, max(1, self._engine.context // 4), self._max_tokens)
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
        call.ended[prompt.digest] = end.reason
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

    def __init__(self, engine: Engine, strategies: Sequence[ServedStrategy], backbone: str, max_tokens: int) -> None:
        """`max_tokens` is the most that a step of a chain may write.

        Raises ForewordError where the model cannot run a prompt of a chain, UsageError for the backbone's name.
        """
        self._engine, self._model = engine, EngineModel(engine, backbone, max_tokens)
        self._lanes: dict[str, _Lane] = {}
        self._closed = False
        for one in strategies:
            if one.item.name == backbone:
                raise UsageError(f"{backbone!r} is the backbone's own name; rename the chain or function")
            bind(one.item, self._model)
            self._lanes[one.served.key] = _Lane(one.item)

    @property
    def context(self) -> int:
        """As `Engine` has it."""
        return self._engine.context

    def check(self, prompt: Prompt) -> None:
        """As `Engine` has it."""
        self._engine.check(prompt)

    async def generate(self, request: Request) -> AsyncIterator[Token | Finished]:
        """As `Engine` has it; a strategy's answer comes in one piece."""
        if request.key not in self._lanes:
            return await self._engine.generate(request)
        self._refuse_more(request)
        return self._pieces(request)

    async def classify(self, request: Request) -> Answer:
        """As `Engine` has it."""
        if request.key not in self._lanes:
            return await self._engine.classify(request)
        self._refuse_more(request)
        result, _ = await self._run(request)
        usage, likely = result.usage, result.probabilities
        choices = request.prompt.output.choices or ()
        return Answer(
            result.text,
            result.text,
            log_likelihoods=None,
            prompt_tokens=usage.prompt_tokens,
            answer_tokens=usage.completion_tokens,
            probabilities=tuple(likely[choice] for choice in choices) if likely is not None else None,
            cached_tokens=usage.cached_tokens,
        )

    def stats(self) -> Stats:
        """As `Engine` has it."""
        return self._engine.stats()

    async def close(self, grace: float) -> None:
        """As `Engine` has it. What has not ended within `grace` seconds is given up; its threads hold nothing back."""
        self._closed, began = True, time.monotonic()
        while any(lane.taken for lane in self._lanes.values()) and time.monotonic() - began < grace:
            await asyncio.sleep(LOOK_SECONDS)
        for lane in self._lanes.values():
            lane.fail(ClosedError())
        await self._engine.close(max(0.0, grace - (time.monotonic() - began)))

    async def _pieces(self, request: Request) -> AsyncIterator[Token | Finished]:
        result, reason = await self._run(request)
        usage = result.usage
        if result.text:
            yield Token(result.text, (), None, ())
        yield Finished(reason, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)

    def _refuse_more(self, request: Request) -> None:
        if self._closed:
            raise ClosedError
        if (taken := self._lanes[request.key].taken) >= THREADS + WAITING:
            raise QueueFullError(taken, QUEUE_RETRY_SECONDS, request.key)

    async def _run(self, request: Request) -> tuple[Result[Any], Literal["stop", "length"]]:
        """The strategy's result for the request, and how it ended.

        Raises DeadlineError, NoAnswerError, ModelError, QueueFullError, ClosedError or UsageError.
        """
        lane, call = self._lanes[request.key], _Call(request, asyncio.get_running_loop())
        strategy = bind(lane.item, self._model, sampling=request.sampling)
        try:
            async with asyncio.timeout_at(request.loop_deadline):
                result = await lane.run(call, strategy)
        except TimeoutError:
            raise DeadlineError from None
        finally:
            call.give_up()
        if result.problem is not None:
            raise NoAnswerError(result.problem)
        last = lane.item.last.digest if isinstance(lane.item, Chain) else ""
        return result, "length" if call.ended.get(last) == "length" else "stop"


class _ScoringStrategyEngine(StrategyEngine):
    """The same in front of an engine that tells how likely a text is."""

    async def score_text(self, request: Request) -> Sequence[Token]:
        """As `TextScoringEngine` has it."""
        assert isinstance(self._engine, TextScoringEngine)
        return await self._engine.score_text(request)


def put_in_front(
    engine: Engine, strategies: Sequence[ServedStrategy], backbone: str, max_tokens: int
) -> StrategyEngine:
    """An engine that answers for `strategies`, and can do all that `engine` can. Raises as `StrategyEngine`."""
    kind = _ScoringStrategyEngine if isinstance(engine, TextScoringEngine) else StrategyEngine
    return kind(engine, strategies, backbone, max_tokens)


class _Lane:
    """The threads of one strategy. They are daemons: code that never returns does not keep a server from ending."""

    def __init__(self, item: Chain | Function) -> None:
        self.item = item
        self.taken = 0
        """Requests that run or wait, those included whose client has gone while their code goes on."""
        self._free = asyncio.Semaphore(THREADS)
        self._waiting: set[asyncio.Future[Result[Any]]] = set()

    async def run(self, call: _Call, strategy: Strategy) -> Result[Any]:
        """The result of one row, in a thread of its own."""
        self.taken += 1
        try:
            await self._free.acquire()
        except BaseException:
            self.taken -= 1
            raise
        future: asyncio.Future[Result[Any]] = call.loop.create_future()
        self._waiting.add(future)
        context = contextvars.copy_context()
        context.run(_CALL.set, call)

        def work() -> None:
            result, error = context.run(_one, strategy, call)
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                call.loop.call_soon_threadsafe(settle, result, error)

        def settle(result: Result[Any] | None, error: Exception | None) -> None:
            self._free.release()
            self.taken -= 1
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            elif result is not None:
                future.set_result(result)

        threading.Thread(target=work, name=f"strategy {strategy.name}", daemon=True).start()
        try:
            return await future
        finally:
            self._waiting.discard(future)

    def fail(self, error: Exception) -> None:
        """Give all that wait for a result this error."""
        for future in [future for future in self._waiting if not future.done()]:
            future.set_exception(error)


def _one(strategy: Strategy, call: _Call) -> tuple[Result[Any] | None, Exception | None]:
    """The result of one row, or its error. What a function raises is told to the log and not to the client."""
    request = call.request
    try:
        [result] = strategy.batch([request.inputs])
        if isinstance(strategy, Function) and (result.problem is not None or not isinstance(result.text, str)):
            raise ModelError
        return result, None
    except (ClosedError, DeadlineError, GivenUpError, QueueFullError) as error:
        return None, error
    except Exception as error:
        if isinstance(error, ForewordError) and not isinstance(strategy, Function):
            return None, error
        if not call.given_up:
            failure("strategy", error.__cause__ or error, id=request.id, prompt=request.key)
        return None, ModelError()
