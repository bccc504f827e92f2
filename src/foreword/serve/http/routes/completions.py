"""POST /v1/completions: answers as OpenAI's older API gives them, whole or streamed, or a text that is echoed.

An echo is for those who ask how likely a text is: its own tokens, each with its log-probability.
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from foreword.serve.engines.seam import Finished, Token
from foreword.serve.http import calls
from foreword.serve.http.answers import head, respond, usage
from foreword.serve.http.bodies import LEAST_LOGPROB, CompletionBody
from foreword.serve.http.calls import Call
from foreword.serve.http.refusals import bad
from foreword.serve.http.running import Piece, RunningCall
from foreword.serve.http.service import Service


def routes(service: Service) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        """What the prompt, or the bare backbone, that `model` names writes behind `prompt`."""
        notes = request.scope["notes"]
        if body.echo:
            _check_echo(service, body)
        call = await calls.completion(service, body, notes["id"])
        if call.served.prompt.output.choices is not None:
            raise bad(f"prompt {call.served.key!r} answers one of its choices; use /v1/classify or chat", "model")
        running = RunningCall(service, "text_completion", body.model, call.rows, notes)
        start = {**head("cmpl", call, body.model), "object": "text_completion"}
        whole = None
        if body.echo:
            whole = _echo(running, body, start)
        elif not body.stream:
            whole = _whole(running, call, body, start)
        return await respond(request, running, whole, lambda pieces: _chunks(running, pieces, call, body, start))

    return router


async def _whole(running: RunningCall, call: Call, body: CompletionBody, start: dict[str, Any]) -> Response:
    answers = [_Answer(body.logprobs) for _ in call.rows]
    async with running:
        async for row, piece in running.pieces():
            answers[row].take(piece)
    choices = [
        {"index": i, "text": answer.text, "logprobs": answer.logprobs, "finish_reason": answer.reason}
        for i, answer in enumerate(answers)
    ]
    return JSONResponse({**start, "choices": choices, "usage": usage(running)})


async def _chunks(
    running: RunningCall, pieces: AsyncIterator[Piece], call: Call, body: CompletionBody,
    start: dict[str, Any],
) -> AsyncIterator[dict[str, Any]]:  # fmt: skip
    lengths = [0] * len(call.rows)
    async for row, piece in pieces:
        part = _Answer(body.logprobs, lengths[row])
        part.take(piece)
        lengths[row] += len(part.text)
        if part.text or part.reason is not None or (part.logprobs and part.logprobs["tokens"]):
            choice = {"index": row, "text": part.text, "logprobs": part.logprobs, "finish_reason": part.reason}
            yield {**start, "choices": [choice]}
    if body.stream_options is not None and body.stream_options.include_usage:
        yield {**start, "choices": [], "usage": usage(running)}


class _Answer:
    """A row's answer, or a part of it that begins `offset` characters into it; `top` likeliest tokens are told."""

    def __init__(self, top: int | None, offset: int = 0) -> None:
        self._top, self._offset = top, offset
        self.text = ""
        self.reason: str | None = None
        self.logprobs: dict[str, list[Any]] | None = None
        if top is not None:
            self.logprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def take(self, piece: Token | Finished) -> None:
        if isinstance(piece, Finished):
            self.reason = piece.reason
            return
        if self.logprobs is not None and piece.logprob is not None:
            likeliest = {text: max(value, LEAST_LOGPROB) for text, value in piece.top[: self._top]}
            self.logprobs["tokens"].append(piece.text)
            self.logprobs["token_logprobs"].append(max(piece.logprob, LEAST_LOGPROB))
            self.logprobs["top_logprobs"].append(likeliest)
            self.logprobs["text_offset"].append(self._offset + len(self.text))
        self.text += piece.text


def _check_echo(service: Service, body: CompletionBody) -> None:
    """Raises Refusal where an echo cannot be had: a prompt's own words are not told, and nothing is written on."""
    if body.model != service.backbone:
        raise bad(f"'echo' is for the bare backbone {service.backbone!r}: a prompt's own words are not told", "echo")
    if body.max_tokens not in (0, 1) or body.temperature or body.stops or body.n > 1 or body.stream:
        raise bad("'echo' goes with 'max_tokens' 0 or 1, temperature 0, and no 'stop', 'n' or 'stream'", "echo")


async def _echo(running: RunningCall, body: CompletionBody, start: dict[str, Any]) -> Response:
    """The texts' tokens, each with its log-probability behind those before it; with `max_tokens` 1, the next too."""
    async with running:
        texts = await running.score_texts(body.max_tokens or 0)
    choices = []
    for i, tokens in enumerate(texts):
        text = "".join(token.text for token in tokens)
        logprobs = None if body.logprobs is None else _echo_logprobs(tokens, body.logprobs)
        choices.append({"index": i, "text": text, "logprobs": logprobs, "finish_reason": "length"})
    return JSONResponse({**start, "choices": choices, "usage": usage(running)})


def _echo_logprobs(tokens: list[Token], top: int) -> dict[str, list[Any]]:
    """The first token has none: nothing stands before it."""
    logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    offset = 0
    for token in tokens:
        likeliest = {text: max(value, LEAST_LOGPROB) for text, value in token.top[:top]}
        logprobs["tokens"].append(token.text)
        logprobs["token_logprobs"].append(None if token.logprob is None else max(token.logprob, LEAST_LOGPROB))
        logprobs["top_logprobs"].append(None if token.logprob is None else likeliest)
        logprobs["text_offset"].append(offset)
        offset += len(token.text)
    return logprobs
