"""A completion that echoes its text, for those who ask how likely a text is. Knows the wire format."""

from typing import Any

from fastapi.responses import JSONResponse, Response

from foreword.serve.engines.seam import Token
from foreword.serve.http.answers import usage
from foreword.serve.http.bodies import LEAST_LOGPROB, CompletionBody
from foreword.serve.http.refusals import bad
from foreword.serve.http.running import Running
from foreword.serve.http.service import Service


def check(service: Service, body: CompletionBody) -> None:
    """Raises Refusal where an echo cannot be had: a prompt's own words are not told, and nothing is written on."""
    if body.model != service.backbone:
        raise bad(f"'echo' is for the bare backbone {service.backbone!r}: a prompt's own words are not told", "echo")
    if body.max_tokens not in (0, 1) or body.temperature or body.stops or body.n > 1 or body.stream:
        raise bad("'echo' goes with 'max_tokens' 0 or 1, temperature 0, and no 'stop', 'n' or 'stream'", "echo")


async def answer(running: Running, body: CompletionBody, start: dict[str, Any]) -> Response:
    """The texts' tokens, each with its log-probability behind those before it; with `max_tokens` 1, the next too."""
    async with running:
        found = await running.read(body.max_tokens or 0)
    choices = []
    for i, tokens in enumerate(found):
        text = "".join(token.text for token in tokens)
        logprobs = None if body.logprobs is None else _logprobs(tokens, body.logprobs)
        choices.append({"index": i, "text": text, "logprobs": logprobs, "finish_reason": "length"})
    return JSONResponse({**start, "choices": choices, "usage": usage(running)})


def _logprobs(tokens: list[Token], top: int) -> dict[str, list[Any]]:
    """The first token has none: nothing stands before it."""
    told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    offset = 0
    for token in tokens:
        likeliest = {text: max(value, LEAST_LOGPROB) for text, value in token.top[:top]}
        told["tokens"].append(token.text)
        told["token_logprobs"].append(None if token.logprob is None else max(token.logprob, LEAST_LOGPROB))
        told["top_logprobs"].append(None if token.logprob is None else likeliest)
        told["text_offset"].append(offset)
        offset += len(token.text)
    return told
