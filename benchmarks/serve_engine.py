"""The engine against itself with other prompts, and against plain batched transformers generate. Knows no HTTP."""

import argparse
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from serve_parts import WRITE, Row, ask, at_once, hard, in_turn, ms, rates, ratio, request, soft

from foreword.backbone import Backbone
from foreword.backbone.answer import Sampling
from foreword.backbone.generate import generate_ids
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import Request

LENGTHS = (6, 66, 18, 36)
"""Tokens that rows of mixed lengths write."""
LONE = 7
"""Requests of which a first token's time is the median."""


def plain(backbone: Backbone, requests: Sequence[Request]) -> float:
    """Useful tokens a second by transformers' generate, in batches of sixteen, each with its longest row's limit."""
    began = time.perf_counter()
    for i in range(0, len(requests), 16):
        batch = requests[i : i + 16]
        rows = [backbone.encode(r.prompt, r.inputs).ids for r in batch]
        longest = max(r.sampling.max_tokens or 0 for r in batch)
        generate_ids(backbone, rows, backbone.vectors(batch[0].prompt), Sampling(), longest)
    return sum(r.sampling.max_tokens or 0 for r in requests) / (time.perf_counter() - began)


def engine_rate(engine: LocalEngine, requests: Sequence[Request]) -> Callable[[], Coroutine[Any, Any, float]]:
    """A side of a comparison: tokens a second with all of them at once."""

    async def run() -> float:
        return (await at_once(engine, requests))[0]

    return run


async def batch(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """Sixteen rows of one soft prompt at once, of one length."""
    requests = [request(soft(backbone, 0), i) for i in range(16)]
    return [{**await _against_plain(backbone, options, requests), "goal": 1.3}]


async def mixed(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """Thirty-two rows that want different numbers of tokens: a plain batch ends with its longest row."""
    requests = [request(soft(backbone, 0), i, LENGTHS[i % len(LENGTHS)]) for i in range(32)]
    return [await _against_plain(backbone, options, requests)]


async def _against_plain(backbone: Backbone, options: argparse.Namespace, requests: Sequence[Request]) -> Row:
    engine = LocalEngine(backbone)
    found = await in_turn(options.rounds, ours=engine_rate(engine, requests), plain=lambda: plain(backbone, requests))
    await engine.close(5)
    return rates(found, "ours", "plain")


async def many(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """Thirty-two rows at once over sixteen prompts, against thirty-two over one."""
    engine = LocalEngine(backbone)
    prompts = [soft(backbone, i) for i in range(16)]
    sides = {
        name: engine_rate(engine, [request(prompts[i % count], i, WRITE // 2) for i in range(32)])
        for name, count in (("sixteen", 16), ("one", 1))
    }
    found = await in_turn(options.rounds, **sides)
    await engine.close(5)
    return [{**rates(found, "sixteen", "one"), "goal": 0.9}]


async def hundred(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """A soft prompt of a hundred tokens against none: time to the first token alone, throughput in a full batch."""
    engine = LocalEngine(backbone)
    prompts = {"soft": soft(backbone, 0, 100), "none": hard()}

    def first(name: str) -> Callable[[], Any]:
        async def run() -> float:
            return ms([(await ask(engine, request(prompts[name], 0, 1))).first for _ in range(LONE)])

        return run

    firsts = await in_turn(max(5, options.rounds), soft=first("soft"), none=first("none"))
    sides = {name: engine_rate(engine, [request(prompt, i) for i in range(16)]) for name, prompt in prompts.items()}
    fulls = await in_turn(options.rounds, **sides)
    await engine.close(5)
    return [
        {
            "ttft_ms_soft": sorted(firsts["soft"])[len(firsts["soft"]) // 2],
            "ttft_ms_none": sorted(firsts["none"])[len(firsts["none"]) // 2],
            "ttft_ratio": ratio(firsts["soft"], firsts["none"]),
            "ttft_goal": 1.1,
            **rates(fulls, "soft", "none"),
            "goal": 0.95,
        }
    ]
