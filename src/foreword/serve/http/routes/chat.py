"""POST /v1/chat/completions: answers as OpenAI's chat API gives them, whole or streamed."""

from collections.abc import AsyncIterator, Awaitable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from foreword.serve.engines.seam import Finished, Token
from foreword.serve.http import calls
from foreword.serve.http.answers import Events, head, respond, usage
from foreword.serve.http.bodies import LEAST_LOGPROB, ChatBody
from foreword.serve.http.calls import Call
from foreword.serve.http.running import Piece, RunningCall
from foreword.serve.http.service import Service


def routes(service: Service) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """The answer of the prompt, or of the bare backbone, that `model` names."""
        notes = request.scope["notes"]
        call = await calls.chat(service, body, notes["id"])
        running = RunningCall(service, "chat", body.model, call.rows, notes)
        start = head("chatcmpl", call, body.model)
        whole: Awaitable[Response] | None = None
        if call.served.prompt.output.choices is not None:
            whole = _chosen(running, body, start)
        elif not body.stream:
            whole = _whole(running, call, body, start)
        return await respond(request, running, whole, lambda pieces: _chunks(running, pieces, call, body, start))

    return router


async def _whole(running: RunningCall, call: Call, body: ChatBody, start: dict[str, Any]) -> Response:
    answers = [_Answer(body.top_logprobs or 0) for _ in call.rows]
    async with running:
        async for row, piece in running.pieces():
            answers[row].take(piece)
    choices = []
    for i, answer in enumerate(answers):
        message = _message(call, answer.text, f"call_{start['id']}-{i}")
        reason = "tool_calls" if "tool_calls" in message else answer.reason
        logprobs = {"content": answer.logprobs, "refusal": None} if body.logprobs else None
        choices.append({"index": i, "message": message, "logprobs": logprobs, "finish_reason": reason})
    return JSONResponse({**start, "object": "chat.completion", "choices": choices, "usage": usage(running)})


async def _chosen(running: RunningCall, body: ChatBody, start: dict[str, Any]) -> Response:
    """A prompt with choices answers with the likeliest, `n` times over."""
    async with running:
        answer = await running.classify()
    counted = usage(running)
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    if body.stream:
        return Events(running, _chosen_chunks(message, body, start, counted))
    choices = [{"index": i, "message": message, "logprobs": None, "finish_reason": "stop"} for i in range(body.n)]
    return JSONResponse({**start, "object": "chat.completion", "choices": choices, "usage": counted})


async def _chosen_chunks(
    message: dict[str, Any], body: ChatBody, start: dict[str, Any], counted: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    for i in range(body.n):
        yield _chunk(start, i, message)
        yield _chunk(start, i, {}, "stop")
    if _wants_usage(body):
        yield {**start, "object": "chat.completion.chunk", "choices": [], "usage": counted}


async def _chunks(
    running: RunningCall, pieces: AsyncIterator[Piece], call: Call, body: ChatBody,
    start: dict[str, Any],
) -> AsyncIterator[dict[str, Any]]:  # fmt: skip
    answers = [_Answer(body.top_logprobs or 0) for _ in call.rows]
    for i in range(len(answers)):
        yield _chunk(start, i, {"role": "assistant", "content": ""})
    async for row, piece in pieces:
        answer = answers[row]
        text = answer.take(piece)
        if isinstance(piece, Token):
            logprobs = answer.last if body.logprobs else None
            if call.tools is None and (text or logprobs):
                yield _chunk(start, row, {"content": text}, logprobs=logprobs)
            continue
        reason = answer.reason
        if call.tools is not None:  # a call is one only when it is whole
            message = _message(call, answer.text, f"call_{start['id']}-{row}")
            for number, made in enumerate(message.get("tool_calls", ())):
                reason = "tool_calls"
                message = {"tool_calls": [{"index": number, **made}]}
            yield _chunk(start, row, {name: value for name, value in message.items() if name != "role"})
        yield _chunk(start, row, {}, reason)
    if _wants_usage(body):
        yield {**start, "object": "chat.completion.chunk", "choices": [], "usage": usage(running)}


class _Answer:
    """A row's answer as it grows. Blanks before its first word belong to the prompt, and are left out."""

    def __init__(self, top: int) -> None:
        self._top = top
        self.text, self.reason = "", "stop"
        self.logprobs: list[dict[str, Any]] = []
        self.last: dict[str, Any] | None = None

    def take(self, piece: Token | Finished) -> str:
        """The text that this piece adds."""
        if isinstance(piece, Finished):
            self.reason = piece.reason
            return ""
        text = piece.text if self.text else piece.text.lstrip()
        self.text += text
        if piece.logprob is not None:
            logprob = {
                **_token(piece.text, piece.logprob),
                "top_logprobs": [_token(*top) for top in piece.top[: self._top]],
            }
            self.logprobs.append(logprob)
            self.last = {"content": [logprob], "refusal": None}
        return text


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(text.encode())}


def _message(call: Call, text: str, call_id: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text} if call.tools is None else call.tools.read(text, call_id)
    return {**message, "refusal": None}


def _wants_usage(body: ChatBody) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


def _chunk(
    start: dict[str, Any], index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    return {**start, "object": "chat.completion.chunk", "choices": [choice]}
