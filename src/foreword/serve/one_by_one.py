"""The simplest engine: one row at a time, each answer in one piece, through the backbone's own `answer`."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from foreword.backbone import Backbone
from foreword.backbone.answer import Answer
from foreword.errors import UsageError
from foreword.serve.engine import Finished, QueueFullError, Request, Stats, Token

MAX_WAITING = 64
RETRY_SECONDS = 5.0


class OneByOne:
    """An engine without batches; a row that is being written cannot be stopped, one that waits can."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._thread = ThreadPoolExecutor(1, "engine")
        self._under_way = 0

    async def generate(self, request: Request) -> AsyncIterator[Token | Finished]:
        """See Engine. Tells no log-probabilities and takes no masks."""
        if request.logprobs or request.mask is not None:
            raise UsageError("this engine gives no log-probabilities and holds no answer to a schema")
        return _pieces(request, await self._answer(request))

    async def classify(self, request: Request) -> Answer:
        """See Engine."""
        return await self._answer(request)

    async def _answer(self, request: Request) -> Answer:
        if self._under_way > MAX_WAITING:
            raise QueueFullError(self._under_way, RETRY_SECONDS)
        self._under_way += 1
        work = self._thread.submit(self._backbone.answer, request.prompt, [request.inputs], request.sampling)
        work.add_done_callback(lambda _: setattr(self, "_under_way", self._under_way - 1))
        return (await asyncio.wrap_future(work))[0]

    def stats(self) -> Stats:
        """See Engine."""
        waiting = max(0, self._under_way - 1)
        return Stats(self._under_way - waiting, waiting, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0)

    async def close(self, grace: float) -> None:  # noqa: ARG002 - what runs in the thread cannot be stopped
        """See Engine."""
        self._thread.shutdown(wait=False, cancel_futures=True)


async def _pieces(request: Request, answer: Answer) -> AsyncIterator[Token | Finished]:
    if request.deadline is not None and time.monotonic() > request.deadline:
        yield Finished("deadline", answer.prompt_tokens, 0, answer.answer_tokens)
        return
    yield Token(answer.text, (), None, ())
    full = answer.answer_tokens >= (request.sampling.max_tokens or 0)
    yield Finished("length" if full else "stop", answer.prompt_tokens, 0, answer.answer_tokens)
