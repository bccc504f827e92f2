"""The cases of serve.py as one picture. Knows rows of results only."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def plot(rows: Sequence[Row], path: Path) -> None:
    """A panel for whatever has been measured."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    cases = {row["case"] for row in rows}
    wanted: list[tuple[set[str], Callable[[Any, Sequence[Row]], None]]] = [
        ({"batch", "mixed", "many", "hundred", "peft"}, _ratios),
        ({"active"}, _speed),
        ({"active"}, _first),
        ({"cold"}, _cold),
        ({"load"}, _memory),
    ]
    panels = [draw for names, draw in wanted if names & cases]
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), layout="constrained", squeeze=False)
    for axis, draw in zip(axes[0], panels, strict=True):
        draw(axis, rows)
    figure.savefig(path)


NAMES = {
    "batch": "plain generate,\n16 rows of one length",
    "mixed": "plain generate,\nrows of mixed lengths",
    "many": "one prompt,\nfor 16 prompts",
    "hundred": "no prompt,\nfor 100 virtual tokens",
    "peft": "PEFT, which\nswitches adapters",
}


def _ratios(axis: Any, rows: Sequence[Row]) -> None:
    some = [row for row in rows if row["case"] in NAMES][::-1]
    axis.barh([NAMES[row["case"]] for row in some], [row["ratio"] for row in some], height=0.5)
    for place, row in enumerate(some):
        axis.text(row["ratio"], place, f" {row['ratio']:.2f}", va="center")
        if "goal" in row:
            axis.plot([row["goal"]] * 2, [place - 0.35, place + 0.35], "k:")
    axis.margins(x=0.15)
    axis.set(xlabel="tokens a second, times those of … (dotted: goal)")


def _speed(axis: Any, rows: Sequence[Row]) -> None:
    _by_prompts(axis, rows, "tokens_per_s")
    axis.set(ylabel="tokens a second", ylim=(0, None))
    axis.legend(frameon=False)


def _first(axis: Any, rows: Sequence[Row]) -> None:
    _by_prompts(axis, rows, "ttft_ms_p50")
    axis.set(ylabel="ms to the first token, median", ylim=(0, None))


def _by_prompts(axis: Any, rows: Sequence[Row], what: str) -> None:
    marks = {("large", "uniform"): "o-", ("large", "zipf"): "o--", ("small", "uniform"): "s-", ("small", "zipf"): "s--"}
    words = {"large": "room for all prefix caches", "small": "room for 64", "uniform": "even", "zipf": "skewed"}
    for cache, traffic in product(("large", "small"), ("uniform", "zipf")):
        some = [r for r in rows if r["case"] == "active" and (r["cache"], r["traffic"]) == (cache, traffic)]
        xs, label = [row["prompts"] for row in some], f"{words[cache]}, {words[traffic]}"
        axis.plot(xs, [row[what] for row in some], marks[cache, traffic], label=label)
    axis.set(xscale="log", xlabel="active prompts")


def _cold(axis: Any, rows: Sequence[Row]) -> None:
    some = [row for row in rows if row["case"] == "cold"]
    names, below = [f"{row['tokens']} virtual tokens" for row in some], [0.0] * len(some)
    for part in ("reading", "checking", "front"):
        values = [row[f"{part}_ms"] for row in some]
        axis.bar(names, values, bottom=below, width=0.5, label=part)
        below = [a + b for a, b in zip(below, values, strict=True)]
    axis.axhline(50, color="k", linestyle=":")
    axis.set(ylabel="ms until a cold prompt is as a warm one")
    axis.legend(frameon=False)


def _memory(axis: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        if row["case"] == "load":
            axis.plot([second / 60 for second in range(len(row["rss_mb"]))], row["rss_mb"])
    axis.set(xlabel="minutes of twice the capacity", ylabel="MB in memory", ylim=(0, None))
