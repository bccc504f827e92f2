"""A training step here against PEFT's prompt tuning with the usual loop, on this machine, in one process, in turn.

Same backbone, rows, virtual tokens, dtype and optimizer. Prints seconds per step, the ratio, rows a second, the memory
that a step takes, and the share of the machine's own matmul ceiling, measured in the same run (4 floating-point
operations per backbone weight, embeddings and head apart, and unique token: forward and the backward pass to the
inputs). On a GPU where there is one.

    python benchmarks/train_vs_peft.py [--json] [--tokens 20 100] [--dtypes float32 bfloat16] [--row-tokens 512]
"""

import argparse
import copy
import gc
import json
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from foreword.backbone import Backbone, Example, Vectors
from foreword.backbone.encode import shared_prefix_length
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning.loss import mean_loss

ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--tokens", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--row-tokens", type=int, default=0, help="rows of several reviews, at least as long as this")
    options = parser.parse_args()
    cases = [
        case(d, p, options.row_tokens, options.rounds, not options.json) for d in options.dtypes for p in options.tokens
    ]
    machine = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if options.json:
        print(json.dumps({"machine": machine, "cases": cases}, indent=2))
    else:
        print(f"\n{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}")


def case(dtype: str, P: int, row_tokens: int, rounds: int, talk: bool) -> dict[str, Any]:
    memory = {kind: fresh_peak(kind, dtype, P, row_tokens) for kind in ("ours", "peft")}
    backbone = Backbone.load("smollm2-135m", dtype)
    ours, theirs, tokens = steps(backbone, P, row_tokens)
    gradient, expected = ours(), theirs()  # the first of each warms the machine's kernels up
    error = ((gradient - expected).norm() / expected.norm()).item()
    times: dict[str, list[float]] = {"ours": [], "peft": [], "ceiling": []}
    for _ in range(rounds):
        for name, step in (("ours", ours), ("peft", theirs)):
            began = time.perf_counter()
            step()
            wait()
            times[name].append(time.perf_counter() - began)
        times["ceiling"].append(ceiling(backbone))
    weights = sum(p.numel() for name, p in backbone.model.named_parameters() if "embed" not in name)
    seconds, peft = statistics.median(times["ours"]), statistics.median(times["peft"])
    top = statistics.median(times["ceiling"])
    found = {
        "dtype": dtype,
        "P": P,
        "rows": ROWS,
        "tokens": tokens,
        "seconds_ours": float(f"{seconds:.4g}"),
        "seconds_peft": float(f"{peft:.4g}"),
        "rows_per_second_ours": round(ROWS / seconds, 1),
        "ratio": round(statistics.median(b / a for a, b in zip(times["ours"], times["peft"], strict=True)), 2),
        "memory_mb_ours": round(memory["ours"]),
        "memory_mb_peft": round(memory["peft"]),
        "memory_ratio": round(memory["ours"] / memory["peft"], 2),
        "ceiling_gflops": round(top / 1e9),
        "ceiling_share": round(4 * weights * tokens / seconds / top, 2),
        "gradient_difference": float(f"{error:.2g}"),
    }
    if talk:
        print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def steps(
    backbone: Backbone, P: int, row_tokens: int
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor], int]:
    """One training step of each kind, which returns its gradient, and the unique tokens in it."""
    examples, answers = rows(backbone, row_tokens)
    with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
        warnings.simplefilter("ignore")
        from peft import PromptTuningConfig, get_peft_model

        plain = copy.deepcopy(backbone.model)
        plain.set_attn_implementation("sdpa")
        model = get_peft_model(plain, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P))
    start = backbone.model.get_input_embeddings().weight[1000 : 1000 + P].float()
    weight = model.prompt_encoder["default"].embedding.weight
    weight.data = start.clone()

    virtual = torch.nn.Parameter(start.clone())
    optimizers = [torch.optim.AdamW([parameter], lr=1e-9) for parameter in (virtual, weight)]
    shared_prefix = torch.arange(-1, -1 - P, -1).numpy()
    whole = [Example(example.question, (answer,)) for example, answer in zip(examples, answers, strict=True)]
    width = max(len(e.question) + len(e.answers[0]) for e in whole)
    ids = torch.zeros(len(whole), width, dtype=torch.int64, device=backbone.device)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        row = torch.tensor([*example.question, *answer], device=ids.device)
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
        labels[i, len(row) - len(answer) : len(row)] = row[len(row) - len(answer) :]

    def ours() -> torch.Tensor:
        loss = mean_loss(backbone.log_probs(whole, shared_prefix, Vectors(virtual)), whole, [0] * len(whole))
        return finish(loss, virtual, optimizers[0])

    def theirs() -> torch.Tensor:
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        return finish(loss, weight, optimizers[1])

    return ours, theirs, P + sum(map(len, whole))


def finish(loss: torch.Tensor, parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradient = parameter.grad.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    optimizer.step()
    return gradient


def rows(backbone: Backbone, row_tokens: int) -> tuple[list[Example], list[tuple[int, ...]]]:
    """The first training rows of the demo's task, as many in each as it takes; each with its own answer."""
    with as_file(files("foreword.jobs") / "demo_files" / "movie-sentiment.yaml") as path:
        task = Task.load(path)
    prompt = Prompt("plain", "Review: {{ text }}\nSentiment:")
    made, rest = [], iter(task.train)
    while len(made) < ROWS:
        row = next(rest)
        example, text = backbone.example(prompt, row.inputs, [row.target]), str(row.inputs["text"])
        while len(example.question) < row_tokens:
            text += " " + str(next(rest).inputs["text"])
            example = backbone.example(prompt, {"text": text}, [row.target])
        made.append(example)
    assert shared_prefix_length([example.question for example in made]) > 0
    return made, [example.answers[0] for example in made]


def ceiling(backbone: Backbone, seconds: float = 0.3) -> float:
    """Floating-point operations per second of a product as large as those of a step."""
    height = 8192 if torch.cuda.is_available() else 512  # a GPU does not notice less
    a, b = (torch.randn(rows, 576, dtype=backbone.dtype, device=backbone.device) for rows in (height, 1536))
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(16):
            torch.nn.functional.linear(a, b)
        wait()
        done += 16
    return 2 * height * 576 * 1536 * done / (time.perf_counter() - began)


def wait() -> None:
    """Until a GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fresh_peak(kind: str, dtype: str, P: int, row_tokens: int) -> float:
    """MB that a step takes beyond what is there before it, in processes of their own: allocators keep what they had.

    The middle one of three: how an allocator breaks its memory up moves a single one by half.
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return statistics.median(pool.apply(peak, (kind, dtype, P, row_tokens)) for _ in range(3))


def peak(kind: str, dtype: str, P: int, row_tokens: int) -> float:
    ours, theirs, _ = steps(Backbone.load("smollm2-135m", dtype), P, row_tokens)
    step = ours if kind == "ours" else theirs
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - held) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest resident size starts again from here
    before = status("VmRSS")
    step()
    return (status("VmHWM") - before) / 1e3


def status(name: str) -> int:
    """A figure of this process, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16") if kind in " ".join(lines)]
    return f"{name} ({', '.join(kinds) or 'no native bf16'})"


if __name__ == "__main__":
    main()
