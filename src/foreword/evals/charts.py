"""The report's charts, drawn with matplotlib as inline SVG. Knows a `Result`; knows nothing of the page around them.

Text stays text, so that it can be searched and read aloud, and the page's own font sets it. The same result gives the
same bytes. Colours are Okabe & Ito's, which colour-blind readers tell apart, and each kind has its own mark too.
"""

import re
from collections.abc import Callable
from html import escape
from typing import Any

from foreword.evals.result import ResultData, StrategyResult
from foreword.evals.wording import count, number

KINDS = {
    "baseline": ("baseline", "#6b7280", "s"),
    "hard": ("hard prompt", "#0072b2", "o"),
    "soft": ("soft prompt", "#d55e00", "D"),
    "flow": ("flow", "#a0568a", "^"),
    "lora": ("LoRA", "#009e73", "v"),
}
"""The name, colour and marker of each kind of strategy."""

LINES = [("#d55e00", "-"), ("#0072b2", "--"), ("#009e73", "-."), ("#a0568a", ":"), ("#b07d00", "-"), ("#3a8fc4", "--")]
WIDTH = 8.6  # inches; the page shows a chart at about its own size
INK, QUIET, GRID = "#1f2430", "#5b6470", "#e4e7eb"


def accuracy_chart(result: ResultData) -> str:
    """Draw every strategy's metric with its 95 % interval, best on top; a dashed line marks the reference."""
    ranked = sorted(result.strategies, key=lambda s: s.mean)
    scale, intervals = result.scale, result.intervals

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.axvline(result.strategy(result.reference).mean, color=QUIET, lw=1, ls=(0, (4, 3)), label="reference")
        for y, s in enumerate(ranked):
            interval, (_, color, mark) = intervals[s.name], KINDS[s.kind]
            axes.plot([interval.low, interval.high], [y, y], color=color, lw=4, alpha=0.35, solid_capstyle="round")
            axes.plot([s.mean], [y], mark, color=color, ms=7.5)
            text = f"{scale.value(s.mean)}   ({scale.span(interval.low, interval.high)})"
            axes.text(1.015, y, text, transform=axes.get_yaxis_transform(), va="center", color=INK)
        axes.set_yticks(range(len(ranked)), [_short(s.name, 34) for s in ranked])
        axes.set_ylim(-0.6, len(ranked) - 0.4)
        axes.tick_params(axis="y", length=0, labelsize=10.5)
        axes.grid(axis="x")
        axes.set_xlabel(f"{scale.label} on {number(len(result.rows))} test rows, with 95 % interval")
        axes.xaxis.set_major_formatter(_ticks(result))
        _kinds_legend(figure, result.strategies, axes.get_legend_handles_labels()[0])

    alt_text = "; ".join(f"{s.name} {scale.value(s.mean)}" for s in reversed(ranked))
    return _svg(draw, 1.15 + 0.4 * len(ranked), f"{scale.label} of each strategy, best first: {alt_text}")


def cost_chart(result: ResultData) -> str:
    """Draw the metric against the tokens that a request costs: up and left is better."""
    scale, intervals = result.scale, result.intervals

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        tokens = [s.tokens_per_request for s in result.strategies]
        for s in result.strategies:
            interval, (_, color, mark) = intervals[s.name], KINDS[s.kind]
            x = [s.tokens_per_request] * 2
            axes.plot(x, [interval.low, interval.high], color=color, lw=3, alpha=0.35, solid_capstyle="round")
            axes.plot(x[:1], [s.mean], mark, color=color, ms=7.5)
        axes.grid()
        axes.margins(x=0.1, y=0.14)
        axes.set_xlim(left=-0.06 * max([*tokens, 1]))
        axes.xaxis.set_major_formatter(lambda x, _: count(x) if x >= 0 else "")
        axes.yaxis.set_major_formatter(_ticks(result))
        axes.set_xlabel("tokens that the backbone reads per request")
        axes.set_ylabel(scale.label)
        _kinds_legend(figure, result.strategies, [])
        points = [(s.tokens_per_request, s.mean) for s in result.strategies]
        spans = [(intervals[s.name].low, intervals[s.name].high) for s in result.strategies]
        _label_points(figure, axes, points, spans, [_short(s.name, 28) for s in result.strategies])

    alt_text = "; ".join(
        f"{s.name} {scale.value(s.mean)} at {count(s.tokens_per_request)} tokens" for s in result.strategies
    )
    return _svg(draw, 4.4, f"{scale.label} against tokens per request: {alt_text}")


def curves_chart(result: ResultData) -> str | None:
    """Draw training loss and the metric on dev against steps, one line per tuned strategy; None if none was tuned."""
    tuned = [s for s in result.strategies if s.curve]
    if not tuned:
        return None
    measured = any(point.dev is not None for s in tuned for point in s.curve)

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
        for index, s in enumerate(tuned):
            color, style = LINES[index % len(LINES)]
            look = {"color": color, "ls": style, "lw": 1.8, "label": _short(s.name, 34)}
            losses = [(p.step, p.loss) for p in s.curve if p.loss is not None]
            panels[0].plot([step for step, _ in losses], [loss for _, loss in losses], **look)
            if measured:
                dev = [(p.step, p.dev) for p in s.curve if p.dev is not None]
                panels[1].plot([step for step, _ in dev], [value for _, value in dev], marker=".", **look)
        panels[0].set_ylabel("loss per answer token (nats)")
        if measured:
            panels[1].set_ylabel(f"{result.scale.label} on dev")
            panels[1].yaxis.set_major_formatter(_ticks(result))
        for axes in panels:
            axes.grid()
            axes.set_xlabel("optimizer steps")
            axes.xaxis.set_major_locator(_whole_numbers())
        figure.legend(handles=panels[0].get_lines(), loc="outside upper left", ncols=3, frameon=False)

    alt_text = "; ".join(
        f"{s.name} ends at loss {s.curve[-1].loss or 0:.3f} after {s.curve[-1].step} steps" for s in tuned
    )
    return _svg(draw, 3.7, f"Learning curves: {alt_text}")


def _ticks(result: ResultData) -> Callable[[float, int], str]:
    return lambda value, _: f"{value:g}" if result.scale.graded else f"{100 * value:.3g} %"


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6, integer=True)


def _kinds_legend(figure: Any, strategies: tuple[StrategyResult, ...], more: list[Any]) -> None:
    from matplotlib.lines import Line2D

    present = [look for kind, look in KINDS.items() if any(s.kind == kind for s in strategies)]
    handles = [Line2D([], [], color=color, marker=mark, ls="", ms=7, label=name) for name, color, mark in present]
    figure.legend(handles=handles + more, loc="outside upper left", ncols=6, frameon=False, handletextpad=0.4)


def _label_points(
    figure: Any,
    axes: Any,
    points: list[tuple[float, float]],
    spans: list[tuple[float, float]],
    names: list[str],
) -> None:
    """Write each name at the nearest spot where it covers no other name, mark or interval, inside the axes."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # fixes the layout, so that pixels mean something
    figure.set_layout_engine("none")
    frame, place = axes.get_window_extent(), axes.transData.transform
    taken = []
    for (x, mean), (low, high) in zip(points, spans, strict=True):
        (left, bottom), (right, top), (_, centre) = place((x, low)), place((x, high)), place((x, mean))
        taken += [Bbox([[left - 4, bottom], [right + 4, top]]), Bbox([[left - 6, centre - 6], [right + 6, centre + 6]])]
    spots = [(side * dx, dy) for dx in (9, 24, 50, 90) for dy in range(-120, 121, 6) for side in (1, -1)]
    spots.sort(key=lambda spot: (abs(spot[0]) + abs(spot[1]), -spot[0]))
    for point, name in zip(points, names, strict=True):
        label = axes.annotate(name, point, textcoords="offset pixels", xytext=(0, 0), va="center", color=INK)
        size, (x, y) = label.get_window_extent(), place(point)

        def box(spot: tuple[int, int], size: Any = size, x: float = x, y: float = y) -> Any:
            left = x + spot[0] - (size.width if spot[0] < 0 else 0)
            return Bbox.from_bounds(left, y + spot[1] - size.height / 2, size.width, size.height)

        def overlap(spot: tuple[int, int], box: Callable[..., Any] = box) -> float:
            spread = box(spot).padded(1.5)
            outside = spread.width * spread.height - _shared_area(spread, frame)
            return float(sum(_shared_area(spread, other) for other in taken) + 10 * outside)

        best = min(spots, key=overlap)  # the nearest of those that are equally free
        label.set(position=best, ha="left" if best[0] > 0 else "right")
        taken.append(box(best))
        if abs(best[0]) + abs(best[1]) > 24:
            look = {"arrowstyle": "-", "color": QUIET, "lw": 0.6, "shrinkA": 1, "shrinkB": 4}
            axes.annotate("", point, textcoords="offset pixels", xytext=best, arrowprops=look)


def _shared_area(a: Any, b: Any) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(width * height) if width > 0 and height > 0 else 0.0


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(draw: Callable[[Any], None], height: float, alt_text: str) -> str:
    """Return what `draw` puts on a figure as an `<svg>` element: `alt_text` is its label, and it links to nothing."""
    import warnings
    from io import StringIO

    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": alt_text, "text.parse_math": False, "font.size": 10,
        "font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": QUIET, "axes.edgecolor": GRID,
        "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelcolor": QUIET, "ytick.labelcolor": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "xtick.major.size": 0, "ytick.major.size": 0, "grid.color": GRID, "grid.linewidth": 0.8,
    }  # fmt: skip
    out = StringIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Only the measuring font lacks a script; the reader's browser has its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=72)  # as SVG counts
        draw(figure)
        # No metadata: its date would change the bytes, and its addresses would point outside.
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=no_metadata)
    svg = out.getvalue()
    view = re.search(r'viewBox="[\d. ]+"', svg)
    assert view is not None  # matplotlib always writes one
    # Group names repeat between charts; the names that a chart refers to are hashed with `alt_text` and do not.
    body = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index(">", view.end()) + 1 :]).replace("xlink:href=", "href=")
    return f'<svg class="chart" role="img" aria-label="{escape(alt_text)}" {view.group()}>{body.strip()}'
