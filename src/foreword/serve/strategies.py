"""Chains and Python functions under served names: an engine that answers their requests, in front of the one that runs
the model.

A chain's steps are requests of that engine like all others, so that they share batches and prefix caches with them.
Knows strategies and the engine's seam; knows no HTTP.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foreword.backbone import Answer
from foreword.errors import UsageError
from foreword.flows import Chain, Function, Result, bind
from foreword.prompts import PROMPT_NAME, Input, Output, Prompt
from foreword.serve.engines.seam import (
    ClosedError,
    DeadlineError,
    Engine,
    Finished,
    NoAnswerError,
    QueueFullError,
    Request,
    Stats,
    TextScoringEngine,
    Token,
)
from foreword.serve.prompts import Served
from foreword.serve.strategy_calls import THREADS, EngineModel, Lane, StrategyCall
from foreword.table import PromptTable

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


class StrategyEngine:
    """An `Engine` that runs `strategies` itself and hands all other requests to `engine`."""

    def __init__(self, engine: Engine, strategies: Sequence[ServedStrategy], backbone: str, max_tokens: int) -> None:
        """`max_tokens` is the most that a step of a chain may write.

        Raises ForewordError where the model cannot run a prompt of a chain, UsageError for the backbone's name.
        """
        self._engine, self._model = engine, EngineModel(engine, backbone, max_tokens)
        self._lanes: dict[str, Lane] = {}
        self._closed = False
        for one in strategies:
            if one.item.name == backbone:
                raise UsageError(f"{backbone!r} is the backbone's own name; rename the chain or function")
            bind(one.item, self._model)
            self._lanes[one.served.key] = Lane(one.item)

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
        lane, call = self._lanes[request.key], StrategyCall(request, asyncio.get_running_loop())
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
