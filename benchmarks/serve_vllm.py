"""The local engine and vLLM side by side: the same rows of one model in turn, in an environment that has vLLM.

Sixteen rows at once over sixteen soft prompts, and over hard ones; every row writes as many tokens. Set OMP_NUM_THREADS
to give both as many threads. Beside tokens per second stands what a token costs in processor time, which a machine
that others use tells better.

    OMP_NUM_THREADS=1 python benchmarks/serve_vllm.py [--json] [--dtype float32] [--rounds 3] [--write 48]
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import torch

from foreword.backbone import Backbone
from foreword.backbone.answer import Sampling
from foreword.prompts import Prompt
from foreword.prompts.soft import SoftTokens
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.registry import make_engine
from foreword.serve.engines.seam import Engine, Finished, Request

NAME, ROWS, TOKENS = "smollm2-135m", 16, 16
TEXT = "a quiet , generous film that never quite finds its feet but is well worth an evening of anyone's time"
OPTIONS = {"kv_cache_memory_bytes": 1024**3, "max_num_seqs": ROWS, "max_model_len": 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=int, default=48, help="tokens per row")
    options = parser.parse_args()
    whole = Backbone.load(NAME, options.dtype)
    part, theirs = make_engine("vllm", NAME, options.dtype, OPTIONS)
    for backbone in (whole, part):  # rows must not end before they have written as much as the others
        backbone.model.generation_config.eos_token_id = None
        backbone.tokenizer.eos_token = None
    theirs._ends = ()
    ours = LocalEngine(whole, max_rows=ROWS)
    asyncio.run(measure(whole, {"local": ours, "vllm": theirs}, options))


async def measure(backbone: Backbone, engines: dict[str, Engine], options: argparse.Namespace) -> None:
    """Every engine once to warm up, then in turn, each round in the other order."""
    cases = {
        "16 soft prompts": [request(soft(backbone, i), i, options.write) for i in range(ROWS)],
        "1 hard prompt": [
            request(Prompt("hard", "Review: {{ text }}\nIn other words:"), i, options.write) for i in range(ROWS)
        ],
    }
    found = []
    for case, requests in cases.items():
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for i in range(options.rounds + 1):
            for name in list(engines)[:: 1 if i % 2 else -1]:
                figures = await run(engines[name], requests)
                taken[name] += [figures] if i else []
        row: dict[str, Any] = {"case": case, "dtype": options.dtype, "threads": torch.get_num_threads()}
        for name, rounds in taken.items():
            row[f"{name} tokens/s"] = round(statistics.median(rate for rate, _ in rounds), 1)
            row[f"{name} CPU ms/token"] = round(1000 * statistics.median(cost for _, cost in rounds), 2)
        found.append(row)
        if not options.json:
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    for engine in engines.values():
        await engine.close(5)
    if options.json:
        print(json.dumps(found, indent=2))


async def run(engine: Engine, requests: Sequence[Request]) -> tuple[float, float]:
    """Tokens per second of all rows at once, and seconds of processor time per token, helpers' included."""
    began, spent = time.perf_counter(), processor_seconds()

    async def one(request: Request) -> int:
        async for item in await engine.generate(request):
            if isinstance(item, Finished):
                assert item.error is None, item.error
                return item.completion_tokens
        raise AssertionError

    tokens = sum(await asyncio.gather(*map(one, requests)))
    return tokens / (time.perf_counter() - began), (processor_seconds() - spent) / tokens


def processor_seconds() -> float:
    """Of this process and of all that it has started."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def soft(backbone: Backbone, i: int) -> Prompt:
    """A prompt with virtual tokens near real ones, unlike any other's."""
    weight = backbone.model.get_input_embeddings().weight
    ids = np.random.default_rng(i).integers(1_000, 40_000, TOKENS)
    embeddings = weight[torch.from_numpy(ids)].float().cpu().numpy()
    vectors = SoftTokens({"embeddings": embeddings}, backbone.name, backbone.fingerprint, "made", "up", embeddings.size)
    return Prompt(f"soft-{i}", f"{{{{ virtual({TOKENS}) }}}}Review: {{{{ text }}}}\nIn other words:", soft=vectors)


def request(prompt: Prompt, i: int, write: int) -> Request:
    return Request(f"{i}", prompt, f"{prompt.name}:1", {"text": f"{i} {TEXT}"}, Sampling(max_tokens=write))


if __name__ == "__main__":
    main()
