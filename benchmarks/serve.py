"""What serving costs: prompts against none, against PEFT and transformers, a thousand prompts, cold ones, overload.

Sides that are compared run in turn, round by round, in one process; ratios are medians over rounds. Rows have outputs
of a fixed length, so that all sides write the same number of tokens.

    python benchmarks/serve.py                                     all but the load, some 15 minutes on two cores
    python benchmarks/serve.py --cases load --minutes 10           a server of its own under twice what it can take
    python benchmarks/serve.py --json --plot docs/serve.svg        the same as JSON on stdout, and as a picture
    python benchmarks/serve.py --cases batch many --rounds 5       some of them, longer

    batch    sixteen rows of one soft prompt, against plain batched generate
    mixed    rows that write from 6 to 66 tokens, the same
    many     thirty-two rows over sixteen prompts, against thirty-two over one
    hundred  a soft prompt of a hundred tokens, against none
    peft     sixteen soft prompts in turn, against PEFT switching adapters
    active   1 to 1,000 active prompts, uniform and skewed, with room for all prefix caches and for 64
    cold     a prompt's way from the table's files to its first token
    load     `foreword serve` as a process, asked for twice what it can do; not run unless it is named

Nothing else should be running. Exits with 1 where an answer was lost or mixed up, or the server crashed or grew.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import sys
from pathlib import Path

import torch
from serve_active import active, cold
from serve_engine import batch, hundred, many, mixed
from serve_load import load
from serve_parts import Case, Row, endless
from serve_peft import peft

from foreword.backbone import Backbone

CASES: dict[str, Case] = {
    "batch": batch, "mixed": mixed, "many": many, "hundred": hundred, "peft": peft, "active": active, "cold": cold,
    "load": load,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--plot", type=Path, help="write a picture here")
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 16, 128, 1000], help="of 'active'")
    parser.add_argument("--minutes", type=float, default=10.0, help="of 'load'")
    parser.add_argument("--cases", nargs="+", default=[name for name in CASES if name != "load"], choices=list(CASES))
    options = parser.parse_args()
    backbone = Backbone.load(options.backbone, options.dtype)
    found: list[Row] = []
    for name in options.cases:
        with contextlib.nullcontext() if name == "load" else endless(backbone):
            rows = asyncio.run(CASES[name](backbone, options))
        for row in rows:
            found.append({"case": name, "dtype": options.dtype, **row})
            if not options.json:
                print("  ".join(f"{key} {value}" for key, value in found[-1].items() if key != "rss_mb"), flush=True)
    machine = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if options.json:
        print(json.dumps({"machine": machine, "cases": found}, indent=2))
    else:
        print(f"\n{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}")
    if options.plot:
        from serve_plot import plot

        plot(found, options.plot)
    if any(row.get("failed") for row in found):
        sys.exit(1)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
