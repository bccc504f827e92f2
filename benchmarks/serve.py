"""The local engine against plain batched transformers generate, and against itself with many prompts, in one run.

What is compared runs in turn, round by round, in one process; ratios are medians over rounds. Rows have outputs of a
fixed length, so that both sides write the same number of tokens; `mixed lengths` shows what it means that a plain
batch waits for its longest row.

    python benchmarks/serve.py [--json] [--dtype float32] [--rounds 3] [--prompts 1 16 128] [--cases batch …]
"""

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreword.backbone import Backbone
from foreword.backbone.answer import Sampling
from foreword.backbone.generate import generate_ids
from foreword.prompts import Prompt
from foreword.prompts.soft import SoftTokens
from foreword.serve.engine import Finished, Request, Token
from foreword.serve.local import LocalEngine

TEXT = "a quiet , generous film that never quite finds its feet but is well worth an evening of anyone's time"
WRITE = 48
"""Tokens per row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    backbone = Backbone.load("smollm2-135m", options.dtype)
    # A row must write as many tokens as it is asked for, or the sides would do different work.
    backbone.model.generation_config.eos_token_id = None
    backbone.tokenizer.eos_token = None
    found = []
    for name in options.cases:
        case = {"case": name, "dtype": options.dtype, **asyncio.run(CASES[name](backbone, options))}
        found.append(case)
        if not options.json:
            print("  ".join(f"{key} {value}" for key, value in case.items()), flush=True)
    machine = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if options.json:
        print(json.dumps({"machine": machine, "cases": found}, indent=2))
    else:
        print(f"\n{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}")


def soft(backbone: Backbone, i: int, tokens: int = 16) -> Prompt:
    """A prompt with virtual tokens near real ones, unlike any other's."""
    weight = backbone.model.get_input_embeddings().weight
    ids = np.random.default_rng(i).integers(1_000, 40_000, tokens)
    embeddings = weight[torch.from_numpy(ids)].float().cpu().numpy()
    vectors = SoftTokens({"embeddings": embeddings}, backbone.name, backbone.fingerprint, "made", "up", embeddings.size)
    body = f"{{{{ virtual({tokens}) }}}}Review: {{{{ text }}}}\nIn other words:"
    return Prompt(f"soft-{i}", body, soft=vectors)


def hard() -> Prompt:
    return Prompt("hard", "Review: {{ text }}\nIn other words:")


def request(prompt: Prompt, i: int = 0, write: int = WRITE) -> Request:
    return Request(f"{i}", prompt, f"{prompt.name}:1", {"text": f"{i} {TEXT}"}, Sampling(max_tokens=write))


async def serve(engine: LocalEngine, requests: Sequence[Request]) -> tuple[float, list[float]]:
    """Tokens per second over all, and seconds to the first token of each."""
    began = time.perf_counter()

    async def one(request: Request) -> tuple[int, float]:
        first = None
        async for item in await engine.generate(request):
            if first is None and isinstance(item, Token):
                first = time.perf_counter() - began
            if isinstance(item, Finished):
                assert item.error is None, item.error
                return item.completion_tokens, first or 0.0
        raise AssertionError

    found = await asyncio.gather(*map(one, requests))
    return sum(count for count, _ in found) / (time.perf_counter() - began), [first for _, first in found]


def plain(backbone: Backbone, requests: Sequence[Request]) -> float:
    """The same by transformers' generate, in batches of sixteen with the longest row's limit; useful tokens only."""
    began = time.perf_counter()
    for i in range(0, len(requests), 16):
        batch = requests[i : i + 16]
        rows = [backbone.encode(r.prompt, r.inputs).ids for r in batch]
        longest = max(r.sampling.max_tokens for r in batch)
        generate_ids(backbone, rows, backbone.vectors(batch[0].prompt), Sampling(), longest)
    return sum(r.sampling.max_tokens for r in requests) / (time.perf_counter() - began)


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
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)


async def batch(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Sixteen rows of one soft prompt at once, 48 tokens each."""
    requests = [request(soft(backbone, 0), i) for i in range(16)]
    engine = LocalEngine(backbone)

    async def ours() -> float:
        return (await serve(engine, requests))[0]

    found = await in_turn(options.rounds, ours=ours, plain=lambda: plain(backbone, requests))
    await engine.close(5)
    return _rates(found, "ours", "plain")


async def mixed(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Forty-eight rows that want from 8 to 88 tokens: a plain batch ends with its longest row."""
    requests = [request(soft(backbone, 0), i, write) for i, write in enumerate([8, 88, 24, 48] * 12)]
    engine = LocalEngine(backbone)

    async def ours() -> float:
        return (await serve(engine, requests))[0]

    found = await in_turn(options.rounds, ours=ours, plain=lambda: plain(backbone, requests))
    await engine.close(5)
    return _rates(found, "ours", "plain")


async def many(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Thirty-two rows at once over sixteen prompts, against thirty-two over one."""
    engine = LocalEngine(backbone)
    prompts = [soft(backbone, i) for i in range(16)]

    def over(count: int) -> Callable[[], Any]:
        async def run() -> float:
            return (await serve(engine, [request(prompts[i % count], i) for i in range(32)]))[0]

        return run

    found = await in_turn(options.rounds, sixteen=over(16), one=over(1))
    await engine.close(5)
    return _rates(found, "sixteen", "one")


async def hundred(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """A soft prompt of a hundred tokens against none: time to the first token alone, throughput in a full batch."""
    engine = LocalEngine(backbone)
    prompts = {"soft": soft(backbone, 0, 100), "none": hard()}

    def first(name: str) -> Callable[[], Any]:
        async def run() -> float:
            return statistics.median([(await serve(engine, [request(prompts[name], 0, 1)]))[1][0] for _ in range(7)])

        return run

    def full(name: str) -> Callable[[], Any]:
        async def run() -> float:
            return (await serve(engine, [request(prompts[name], i) for i in range(16)]))[0]

        return run

    firsts = await in_turn(max(5, options.rounds), soft=first("soft"), none=first("none"))
    fulls = await in_turn(options.rounds, soft=full("soft"), none=full("none"))
    await engine.close(5)
    return {
        "ttft_ms_soft": round(1e3 * statistics.median(firsts["soft"]), 1),
        "ttft_ms_none": round(1e3 * statistics.median(firsts["none"]), 1),
        "ttft_ratio": ratio(firsts["soft"], firsts["none"]),
        **_rates(fulls, "soft", "none"),
    }


async def active(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """Throughput with so many prompts in turn, 16 tokens a row; the front cache takes about 64 of them."""
    tokens = 2 * int(np.prod(backbone.cache_shape)) * backbone.dtype.itemsize
    engine = LocalEngine(backbone, front_bytes=64 * 19 * tokens)
    result: dict[str, Any] = {}
    for count in options.prompts:
        prompts = [soft(backbone, i) for i in range(count)]
        rows = max(32, count)
        rates = [
            (await serve(engine, [request(prompts[i % count], i, 16) for i in range(j, min(j + 64, rows))]))[0]
            for _ in range(2)
            for j in range(0, rows, 64)
        ]
        before = engine.stats()
        result[f"tokens_per_s_{count}"] = round(statistics.median(rates[len(rates) // 2 :]), 1)
        result[f"misses_{count}"] = before.front_misses
    await engine.close(5)
    return result


async def cold(backbone: Backbone, options: argparse.Namespace) -> dict[str, Any]:
    """The first request of a prompt against the second: what its check and its front cost."""
    engine = LocalEngine(backbone)
    found: dict[str, list[float]] = {"16": [], "100": []}
    await serve(engine, [request(soft(backbone, 999), 0, 1)])
    for i in range(3 * options.rounds):
        for tokens, times in found.items():
            prompt = soft(backbone, 1_000 + i, int(tokens))
            firsts = [(await serve(engine, [request(prompt, 0, 1)]))[1][0] for _ in range(3)]
            times.append(1e3 * (firsts[0] - min(firsts[1:])))
    await engine.close(5)
    return {f"cold_ms_{tokens}": round(statistics.median(times), 1) for tokens, times in found.items()}


def _rates(found: dict[str, list[float]], a: str, b: str) -> dict[str, Any]:
    rates = {f"tokens_per_s_{name}": round(statistics.median(found[name]), 1) for name in (a, b)}
    return {**rates, "ratio": ratio(found[a], found[b])}


CASES: dict[str, Callable[[Backbone, argparse.Namespace], Any]] = {
    "batch": batch, "mixed": mixed, "many": many, "hundred": hundred, "active": active, "cold": cold,
}  # fmt: skip


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
