"""What a training step costs as prompts and rows grow: with unique tokens, and not with rows times virtual tokens.

Two sweeps on SmolLM2-135M in fp32: the prompt's length P with 16 rows of 32 tokens, and the rows' length with 4 rows
behind 20 virtual tokens. For each, seconds of one core for a step (forward and backward pass, others' work not counted)
and the time at which the core's own matmul ceiling would read the unique tokens. Where there is a GPU, seconds until it
has done what it was given.

    python benchmarks/cost.py [--json] [--plot docs/cost.svg]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clock import clock

from foreword.backbone import Backbone, Example, Vectors

LENGTHS = (10, 20, 50, 100, 200, 350, 500)
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
ROUNDS = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--plot", type=Path, help="write a picture here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone.load("smollm2-135m", "float32")
    weights = sum(p.numel() for name, p in backbone.model.named_parameters() if "embed" not in name)
    top = ceiling(backbone)
    cases = []
    for sweep, points in (("P", [(P, 16, 32) for P in LENGTHS]), ("row", [(20, 4, width) for width in WIDTHS])):
        for P, rows, width in points:
            tokens = P + rows * width
            case = {"sweep": sweep, "P": P, "rows": rows, "row_tokens": width, "unique_tokens": tokens}
            case["seconds"] = digits(step(backbone, P, rows, width))
            case["at_ceiling"] = digits(4 * weights * tokens / top)
            case["repeated_tokens"] = rows * (P + width)
            cases.append(case)
            if not options.json:
                print("  ".join(f"{name} {value}" for name, value in case.items()), flush=True)
    if options.json:
        print(
            json.dumps({"machine": {"torch": torch.__version__, "gflops": round(top / 1e9)}, "cases": cases}, indent=2)
        )
    if options.plot:
        plot(cases, options.plot)


def step(backbone: Backbone, P: int, rows: int, width: int) -> float:
    """Seconds, the fastest of a few."""
    draw = np.random.default_rng(0).integers(1000, 20_000, (rows, width + 1))
    examples = [Example(row[:-1], ((int(row[-1]),),)) for row in draw]
    shared_prefix, times = np.arange(-1, -1 - P, -1), []
    start = backbone.model.get_input_embeddings().weight[1000 : 1000 + P].float()
    for _ in range(ROUNDS + 1):
        virtual = start.clone().requires_grad_()
        began = clock()
        backbone.log_probs(examples, shared_prefix, Vectors(virtual)).mean().neg().backward()
        times.append(clock() - began)
    return min(times)


def digits(number: float) -> float:
    """Three of them, for a GPU's milliseconds too."""
    return float(f"{number:.3g}")


def ceiling(backbone: Backbone, seconds: float = 2.0) -> float:
    """Floating-point operations per second, in products as large as those of a step."""
    height = 8192 if torch.cuda.is_available() else 512  # a GPU does not notice less
    a, b = (torch.randn(rows, 576, device=backbone.device) for rows in (height, 1536))
    done, began = 0, clock()
    while clock() - began < seconds:
        for _ in range(16):
            torch.nn.functional.linear(a, b)
        done += 16
    return 2 * height * 576 * 1536 * done / (clock() - began)


def plot(cases: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    sweeps = (("P", "P", "virtual tokens, 16 rows of 32"), ("row", "row_tokens", "tokens in a row, 4 rows, P = 20"))
    for axis, (sweep, x, title) in zip(axes, sweeps, strict=True):
        some = [case for case in cases if case["sweep"] == sweep]
        xs, seconds = [case[x] for case in some], [case["seconds"] for case in some]
        unit = seconds[0] / some[0]["unique_tokens"]
        axis.plot(xs, seconds, "o-", label="a step")
        axis.plot(xs, [unit * case["unique_tokens"] for case in some], ":", label="in proportion to unique tokens")
        if sweep == "P":
            repeated = [unit * case["repeated_tokens"] for case in some]
            axis.plot(xs, repeated, "--", label="if every row repeated the prompt")
        axis.set(
            xlabel=title,
            ylabel="seconds of a GPU" if torch.cuda.is_available() else "seconds of one core",
            ylim=(0, None),
        )
        axis.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
