"""What the cases of serve.py share: prompts made up on the spot, requests, clocks and medians. Knows no case."""

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foreword.backbone import Backbone
from foreword.backbone.answer import Sampling
from foreword.prompts import Prompt
from foreword.prompts.soft import SoftTokens
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import Finished, Request, Token

Row = dict[str, Any]
Case = Callable[[Backbone, argparse.Namespace], Awaitable[list[Row]]]
"""Gives the rows that it has measured; a `failed` among their fields makes the whole run fail."""

TEXT = "a quiet , generous film that never quite finds its feet but is well worth an evening of anyone's time"
WRITE = 48
"""Tokens per row."""


def soft(backbone: Backbone, i: int, tokens: int = 16, name: str = "soft") -> Prompt:
    """A prompt with virtual tokens near real ones, unlike any other's."""
    weight = backbone.model.get_input_embeddings().weight
    ids = np.random.default_rng(i).integers(len(weight) // 50, len(weight), tokens)
    embeddings = weight[torch.from_numpy(ids)].float().cpu().numpy()
    vectors = SoftTokens({"embeddings": embeddings}, backbone.name, backbone.fingerprint, "made", "up", embeddings.size)
    body = f"{{{{ virtual({tokens}) }}}}Review: {{{{ text }}}}\nIn other words:"
    return Prompt(f"{name}-{i}", body, soft=vectors)


def hard() -> Prompt:
    """The same words without virtual tokens."""
    return Prompt("hard", "Review: {{ text }}\nIn other words:")


def request(prompt: Prompt, i: int = 0, write: int = WRITE, text: str = TEXT) -> Request:
    """Row number `i`, which writes `write` tokens."""
    return Request(f"{i}", prompt, f"{prompt.name}:1", {"text": f"{i} {text}"}, Sampling(max_tokens=write))


@contextlib.contextmanager
def endless(backbone: Backbone) -> Iterator[None]:
    """Rows write as many tokens as they are asked for, or the sides would do different work."""
    settings, tokenizer = backbone.model.generation_config, backbone.tokenizer
    _ = backbone.fingerprint  # before anything of it is changed
    kept = settings.eos_token_id, tokenizer.eos_token
    settings.eos_token_id = tokenizer.eos_token = None
    try:
        yield
    finally:
        settings.eos_token_id, tokenizer.eos_token = kept


@dataclass(frozen=True)
class Said:
    """What became of a request."""

    ids: tuple[int, ...]
    text: str
    first: float
    """Seconds to the first token."""
    finished: Finished
    gap: float
    """Nats between the two likeliest tokens where they are closest; infinite where no log-probabilities are asked."""


async def ask(engine: LocalEngine, request: Request) -> Said:
    """The whole answer to one request."""
    began, first, ids, text, gap = time.perf_counter(), 0.0, list[int](), "", float("inf")
    async for item in await engine.generate(request):
        first = first or time.perf_counter() - began
        if isinstance(item, Finished):
            assert item.error is None, item.error
            return Said(tuple(ids), text, first, item, gap)
        ids += item.ids
        text += item.text
        gap = min(gap, _gap(item))
    raise AssertionError("a stream without an end")


def _gap(token: Token) -> float:
    return token.top[0][1] - token.top[1][1] if len(token.top) > 1 else float("inf")


async def at_once(engine: LocalEngine, requests: Sequence[Request]) -> tuple[float, list[Said]]:
    """All of them together: tokens per second over all, and each answer."""
    began = time.perf_counter()
    found = await asyncio.gather(*(ask(engine, request) for request in requests))
    return sum(len(said.ids) for said in found) / (time.perf_counter() - began), found


async def steadily(engine: LocalEngine, requests: Sequence[Request], clients: int = 16) -> tuple[float, list[Said]]:
    """The same by so many clients, each of which asks for the next when its answer has ended."""
    left, found = iter(requests), list[Said]()

    async def client() -> None:
        for request in left:
            found.append(await ask(engine, request))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return sum(len(said.ids) for said in found) / (time.perf_counter() - began), found


async def in_turn(rounds: int, **sides: Callable[[], Any]) -> dict[str, list[Any]]:
    """Every side once to warm up, then all of them in turn, each round in the other order."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            value = sides[name]()
            value = await value if asyncio.iscoroutine(value) else value
            if i:
                found[name].append(value)
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)


def rates(found: dict[str, list[float]], a: str, b: str) -> Row:
    """Medians of both sides, and how often `a` is `b`."""
    medians = {f"tokens_per_s_{name}": round(statistics.median(found[name]), 1) for name in (a, b)}
    return {**medians, "ratio": ratio(found[a], found[b])}


def ms(seconds: Sequence[float], share: float = 0.5) -> float:
    """A quantile, in milliseconds."""
    return round(1e3 * float(np.quantile(seconds, share)), 1)
