"""The engine with up to a thousand active prompts, and one that it has never seen. Knows no HTTP.

`large` keeps the prefix caches of all prompts, `small` of CACHED: with more active prompts than that, shared prefixes
have to be computed again. Under uniform traffic nearly all, under skewed traffic (the k-th prompt is asked for in
proportion to 1/k) those that are seldom asked for.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from serve_parts import Row, ask, ms, request, soft, steadily

from foreword.backbone import Backbone
from foreword.prompts import Prompt
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.prepare import Preparer, check_prompt
from foreword.table import PromptTable

CACHED = 64
"""Prefix caches that the small engine keeps."""
BEFORE = 3 * CACHED
"""Requests of the same traffic before each measurement, so that it meets the small cache as traffic leaves it."""
WRITE, ROWS, CLIENTS = 8, 48, 16


async def active(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """Tokens a second and time to the first token while sixteen clients ask, by the number of active prompts."""
    prompts = [soft(backbone, i) for i in range(max(options.prompts))]
    one = _prefix_cache_bytes(backbone, prompts[0])
    engines = {
        "large": LocalEngine(backbone, prefix_cache_bytes=one * (len(prompts) + 1)),
        "small": LocalEngine(backbone, prefix_cache_bytes=one * CACHED),
    }
    await _warm(engines["large"], prompts)
    traffic = [("uniform", n) for n in options.prompts] + [("zipf", n) for n in options.prompts if n > CACHED]
    points = list(itertools.product(engines, traffic))
    speeds: dict[object, list[float]] = {point: [] for point in points}
    firsts: dict[object, list[float]] = {point: [] for point in points}
    hits: dict[object, list[float]] = {point: [] for point in points}
    for turn in range(options.rounds):
        for point in points[:: 1 if turn % 2 else -1]:
            cache, (kind, count) = point
            engine, count_before = engines[cache], 0 if cache == "large" else BEFORE
            drawn = np.random.default_rng([turn, count]).choice(count, count_before + ROWS, p=_shares(kind, count))
            await _warm(engine, [prompts[k] for k in drawn[ROWS:]])
            asked = [request(prompts[k], i, WRITE) for i, k in enumerate(drawn[:ROWS])]
            old = engine.stats()
            speed, said = await steadily(engine, asked, CLIENTS)
            new = engine.stats()
            speeds[point].append(speed)
            firsts[point] += [one.first for one in said]
            hits[point].append((new.prefix_cache_hits - old.prefix_cache_hits) / ROWS)
    for engine in engines.values():
        await engine.close(5)
    return [
        {
            "cache": cache,
            "traffic": kind,
            "prompts": count,
            "tokens_per_s": round(statistics.median(speeds[point]), 1),
            "ttft_ms_p50": ms(firsts[point]),
            "ttft_ms_p99": ms(firsts[point], 0.99),
            "front_hits": round(statistics.mean(hits[point]), 2),
        }
        for point in points
        for cache, (kind, count) in [point]
    ]


async def cold(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """From the table's files to the first token: what a prompt that nobody has asked for yet takes beyond a warm one.

    `reading` is the table's, `checking` that of the server and the engine, `front` what its virtual tokens and fixed
    text take in the model. Files are in the system's cache.
    """
    result = []
    with tempfile.TemporaryDirectory() as folder:
        table = PromptTable.open(Path(folder) / "prompts.db")
        engine = LocalEngine(backbone)
        await ask(engine, request(soft(backbone, 999), 0, 1))
        times: dict[int, list[dict[str, float]]] = {16: [], 100: []}
        for i in range(4 * options.rounds + 1):
            for tokens, found in times.items():
                ref = table.put(soft(backbone, i, tokens, f"cold-{tokens}")).ref
                found.append(await _cold(engine, PromptTable.open(Path(folder) / "prompts.db"), ref))
        await engine.close(5)
    for tokens, found in times.items():
        row: Row = {"tokens": tokens}
        for name in found[0]:
            row[f"{name}_ms"] = ms([one[name] for one in found[1:]])  # the first one warms up
        result.append({**row, "goal": 50})
    return result


async def _cold(engine: LocalEngine, table: PromptTable, ref: str) -> dict[str, float]:
    backbone, clock = engine.backbone, time.perf_counter
    table.current()  # a server knows what names stand for
    began = clock()
    prompt = table.get(ref)
    read = clock()
    check_prompt(backbone, prompt)
    checked = clock()
    first = (await ask(engine, request(prompt, 0, 1))).first
    told = clock()
    again = min([(await ask(engine, request(prompt, 0, 1))).first for _ in range(3)])
    preparer, one = Preparer(backbone), request(prompt, 0, 1)
    spans = []
    for _ in range(2):
        start = clock()
        preparer.row(one)
        spans.append(clock() - start)
    once = max(0.0, spans[0] - spans[1])
    return {
        "cold": told - began - again,
        "reading": read - began,
        "checking": checked - read + once,
        "front": first - again - once,
        "warm_ttft": again,
    }


async def _warm(engine: LocalEngine, prompts: Sequence[Prompt]) -> None:
    """Every shared prefix computed, in this order, as far as there is room."""
    await steadily(engine, [request(prompt, 0, 1, "so") for prompt in prompts], CLIENTS)


def _prefix_cache_bytes(backbone: Backbone, prompt: Prompt) -> int:
    F = Preparer(backbone).generation(request(prompt)).shared_prefix_length
    return 2 * int(np.prod(backbone.cache_shape)) * backbone.dtype.itemsize * F


def _shares(kind: str, count: int) -> np.ndarray:
    weights = np.ones(count) if kind == "uniform" else 1 / np.arange(1, count + 1)
    shares: np.ndarray = weights / weights.sum()
    return shares
