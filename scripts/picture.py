"""Draws docs/demo.svg, the demo's picture, from the demo's table in the README: one place for its figures."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([^|]+) \| ([\d.]+) % \(([\d.]+) to ([\d.]+)\) \| ([^|]+) \|", re.MULTILINE)
LOW, HIGH = 45.0, 90.0
LEFT, WIDTH, TOP, STEP = 262, 430, 62, 34
STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .faint { fill: #59636e; font-size: 12px; }
  .card { fill: #ffffff; stroke: #d1d9e0; }
  .grid { stroke: #e4e8ec; }
  .reference { stroke: #59636e; stroke-dasharray: 4 3; }
  .plain { fill: #59636e; stroke: #59636e; }
  .soft { fill: #0969da; stroke: #0969da; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .faint { fill: #9198a1; }
    .card { fill: #0d1117; stroke: #3d444d; }
    .grid { stroke: #2a313c; }
    .reference { stroke: #9198a1; }
    .plain { fill: #9198a1; stroke: #9198a1; }
    .soft { fill: #4493f8; stroke: #4493f8; }
  }
"""


def place(percent: float) -> float:
    """Pixels from the left."""
    return LEFT + WIDTH * (percent - LOW) / (HIGH - LOW)


def picture(readme: str) -> str:
    """The SVG: a dot for each accuracy and a line for its interval; the best hard prompt is the dashed line."""
    rows = [
        (name, float(value), float(low), float(high), gap.strip())
        for name, value, low, high, gap in ROW.findall(readme)
    ]
    reference = next(value for _, value, _, _, gap in rows if gap == "reference")
    end = TOP + STEP * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {end + 40}" width="720" height="{end + 40}" '
        'role="img" aria-label="Accuracy of each strategy on 1,000 test rows, with 95 % intervals">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="719" height="{end + 39}" rx="8"/>',
        '<text class="title" x="20" y="30">Accuracy on 1,000 unseen film reviews, with 95 % intervals</text>',
    ]
    for percent in range(int(LOW) + 5, int(HIGH) + 1, 10):
        x = place(percent)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP - 16}" x2="{x:.1f}" y2="{end}"/>')
        parts.append(f'<text class="faint" x="{x:.1f}" y="{end + 18}" text-anchor="middle">{percent} %</text>')
    x = place(reference)
    parts.append(f'<line class="reference" x1="{x:.1f}" y1="{TOP - 16}" x2="{x:.1f}" y2="{end}"/>')
    for number, (name, value, low, high, _) in enumerate(rows):
        y = TOP + STEP * number + 4
        kind = "soft" if name.startswith("soft") else "plain"
        parts.append(f'<text x="20" y="{y + 5}">{name}</text>')
        parts.append(
            f'<line class="{kind}" x1="{place(low):.1f}" y1="{y}" x2="{place(high):.1f}" y2="{y}" stroke-width="3"/>'
        )
        parts.append(f'<circle class="{kind}" cx="{place(value):.1f}" cy="{y}" r="6"/>')
        parts.append(f'<text class="faint" x="{place(high) + 8:.1f}" y="{y + 4}">{value:.1f}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    (ROOT / "docs" / "demo.svg").write_text(picture((ROOT / "README.md").read_text()))
