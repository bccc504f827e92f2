"""One request of a chain or a function: the thread that answers it, and the engine as the model that its steps ask.

Knows strategies and the engine's seam; knows no names and no HTTP.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from foreword.backbone import Answer, Sampling
from foreword.errors import ForewordError
from foreword.flows import Chain, Function, Result, Strategy
from foreword.listen import Count
from foreword.prompts import Prompt
from foreword.prompts import schema as schemas
from foreword.serve.engines.seam import (
    ClosedError,
    DeadlineError,
    Engine,
    Finished,
    ModelError,
    QueueFullError,
    Request,
)
from foreword.serve.log import failure

T = TypeVar("T")
THREADS = 16
"""The most requests of one strategy that run at the same time; each waits for its model most of the time.

Every strategy has its own, so that one that hangs keeps no other from answering."""


@dataclass
class StrategyCall:
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


_CALL: ContextVar[StrategyCall] = ContextVar("call")


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

    async def _ask(self, call: StrategyCall, prompt: Prompt, row: Mapping[str, object], sampling: Sampling) -> Answer:
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


class Lane:
    """The threads of one strategy. They are daemons: code that never returns does not keep a server from ending."""

    def __init__(self, item: Chain | Function) -> None:
        self.item = item
        self.taken = 0
        """Requests that run or wait, those included whose client has gone while their code goes on."""
        self._free = asyncio.Semaphore(THREADS)
        self._waiting: set[asyncio.Future[Result[Any]]] = set()

    async def run(self, call: StrategyCall, strategy: Strategy) -> Result[Any]:
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


def _one(strategy: Strategy, call: StrategyCall) -> tuple[Result[Any] | None, Exception | None]:
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
