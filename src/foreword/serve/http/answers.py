"""What all answers begin and end with, and how they get to their client: whole, or event by event. Knows no route.

Nothing is computed further than the client is there to read it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from foreword.serve.http.calls import Call
from foreword.serve.http.refusals import Refusal, refusal
from foreword.serve.http.running import Piece, RunningCall

T = TypeVar("T")
GONE = 499
"""nginx's status for a client that went away: nobody reads it but the log."""


def head(kind: str, call: Call, model: str) -> dict[str, Any]:
    """The fields that an answer begins with. The fingerprint tells which version a name or an alias stood for."""
    name = f"{kind}-{call.rows[0].id.rpartition('-')[0]}"
    return {"id": name, "created": int(time.time()), "model": model, "system_fingerprint": call.served.key}


def usage(running: RunningCall) -> dict[str, Any]:
    """The tokens that a call took, as OpenAI's clients read them."""
    read, written = running.usage
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": running.cached},
    }


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client goes away."""
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refusal(GONE, "the client went away", "client_gone")
    finally:
        watch.cancel()
        task.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def respond(
    request: Request,
    running: RunningCall,
    whole: Awaitable[Response] | None,
    chunks: Callable[[AsyncIterator[Piece]], AsyncIterator[Mapping[str, Any]]],
) -> Response:
    """The `whole` answer; without one, `chunks` of its pieces as they come. An error frees the rows."""
    try:
        if whole is not None:
            return await unless_gone(request, whole)
        return Events(running, chunks(await unless_gone(request, _begun(running.pieces()))))
    except BaseException:
        await running.close()
        raise


class Events(StreamingResponse):
    """Server-sent events of a call under way, which ends with the response however that ends."""

    def __init__(self, running: RunningCall, chunks: AsyncIterator[Mapping[str, Any]]) -> None:
        super().__init__(_events(chunks), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._running.close()


async def _events(chunks: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except Exception as error:  # the status has been sent already
        yield _event(refusal(error).body)
    yield b"data: [DONE]\n\n"


def _event(document: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def _begun(pieces: AsyncIterator[T]) -> AsyncIterator[T]:
    """`pieces` again, after the first has come: so an error before it still gets a status of its own."""
    first = await anext(pieces)

    async def again() -> AsyncIterator[T]:
        yield first
        async for piece in pieces:
            yield piece

    return again()
