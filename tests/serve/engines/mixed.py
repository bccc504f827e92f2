"""Prompts of every kind on one tiny model, and requests for them: what the engine's tests share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from foreword.backbone import Backbone
from foreword.backbone.answer import Sampling
from foreword.backbone.generate import generate_ids
from foreword.prompts import Prompt
from foreword.prompts.soft import SoftTokens
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import Finished, Request, Token


def soft(backbone: Backbone, tensors: dict[str, np.ndarray]) -> SoftTokens:
    return SoftTokens(tensors, backbone.name, backbone.fingerprint, "test", "run", 1)


def prompts(backbone: Backbone) -> list[Prompt]:
    """Sixteen: without a shared prefix, hard, virtual tokens in the middle, keys and values, with offsets."""
    dice = np.random.default_rng(0)
    D, (L, H, size) = backbone.dimension, backbone.cache_shape

    def numbers(*shape: int) -> np.ndarray:
        return dice.normal(scale=0.4, size=shape).astype(np.float32)

    bodies = {
        "none": ["{{ text }}", "{{ text }} Answer:", "{{ text }}\nSentiment:", "{{ text }} very"],
        "hard": [
            "Review: {{ text }} Sentiment:",
            "What is the sentiment of this review? {{ text }}",
            "Answer very good or rather bad. Review: {{ text }} Answer:",
            "No input at all, and a fixed question",
        ],
        "middle": [
            "Review: {{ virtual(3) }} {{ text }} Sentiment:",
            "{{ virtual(4) }}{{ text }}",
            "Review: {{ text }} {{ virtual(2) }} Sentiment: {{ virtual(3) }}",
        ],
        "offset": ["{{ virtual(2) }}Review: a film {{ text }} Sentiment:"],
        "prefix": [
            "{{ virtual(1) }}{{ text }}",
            "{{ virtual(5) }}Review: {{ text }} is",
            "{{ virtual(9) }}a {{ text }}",
            "{{ virtual(20) }}Review: quiet {{ text }}",
        ],
    }
    made = []
    for kind, texts in bodies.items():
        for i, body in enumerate(texts):
            prompt = Prompt(f"{kind}-{i}", body)
            tensors = {"embeddings": numbers(prompt.virtual_tokens, D)}
            if kind == "prefix":
                P = prompt.virtual_tokens
                tensors = {"keys": numbers(L, H, P, size), "values": numbers(L, H, P, size)}
            if kind == "offset":
                tensors["offsets"] = numbers(7, D)
            made.append(prompt.replace(soft=soft(backbone, tensors)) if prompt.virtual_tokens else prompt)
    assert len(made) == 16
    return made


def request(prompt: Prompt, text: str = "a quiet film", **options: Any) -> Request:
    """Anything that is not a field of Request is Sampling's."""
    fields = {name: options.pop(name) for name in ("deadline", "logprobs", "schema", "key") if name in options}
    key = fields.pop("key", f"{prompt.name}:1")
    return Request("id", prompt, key, dict.fromkeys(prompt.variables, text), Sampling(**options), **fields)


def alone(backbone: Backbone, request: Request) -> list[int]:
    """The same, by transformers' generate."""
    ids = backbone.encode(request.prompt, request.inputs).ids
    sampling = request.sampling
    return generate_ids(backbone, [ids], backbone.vectors(request.prompt), sampling, sampling.limit(request.prompt))[0]


async def answer(engine: LocalEngine, request: Request) -> tuple[list[Token], Finished]:
    tokens: list[Token] = []
    async for item in await engine.generate(request):
        if isinstance(item, Finished):
            return tokens, item
        tokens.append(item)
    raise AssertionError("the stream ended without Finished")


def ids(tokens: list[Token]) -> list[int]:
    return [i for token in tokens for i in token.ids]


@asynccontextmanager
async def running(backbone: Backbone, **options: Any) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(backbone, **options)
    try:
        yield engine
    finally:
        await engine.close(5)


async def until(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
