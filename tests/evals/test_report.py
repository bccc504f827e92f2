"""The report page, read as a browser would: what it shows, what it must not load, and texts that mean harm."""

import math
import random
import re
from functools import cache
from html.parser import HTMLParser

import pytest

from foreword.evals import Result, StrategyResult, build_result
from foreword.evals.report import render_report
from foreword.tasks import Row
from foreword.tuning.curves import CurvePoint

ATTACK = "<script>alert('read')</script><img src=https://evil.example/x onerror=alert(1)> & \"quoted\""
VOID = {"meta", "br", "img", "use", "path", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's elements in order, its text, and the text of each table's cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]


def fake(
    labels: tuple[str, ...] = ("negative", "positive"), n: int = 1000, graded: bool = False, text: str = "A quiet film."
) -> Result:
    """Six strategies as a real run would give them: two baselines, two hard prompts, two soft ones with curves."""
    rng = random.Random(3)
    rows = tuple(Row(f"test:{i}", {"text": f"{text} {i}"}, rng.choice(labels)) for i in range(n))
    ease = [rng.random() for _ in rows]

    def strategy(
        name: str, kind: str, accuracy: float, tokens: float, parameters: int = 0, seed: int | None = None
    ) -> StrategyResult:
        luck = [0.6 * e + 0.4 * rng.random() for e in ease]
        bar = sorted(luck)[int(accuracy * n)]
        wrong = [[label for label in labels if label != row.target] for row in rows]
        answers = [row.target if x < bar else rng.choice(w) for row, x, w in zip(rows, luck, wrong, strict=True)]
        if kind == "hard":
            answers[0] = "I cannot say"
        scores = [float(a == row.target) for a, row in zip(answers, rows, strict=True)]
        if graded:
            scores = [rng.betavariate(5 * accuracy, 5 - 5 * accuracy) for _ in rows]
        curve = tuple(
            CurvePoint(
                s, 8 * s, 0.3 + math.exp(-s / 90), 0.87 - 0.4 * math.exp(-s / 99) if s % 40 == 0 else None, s / 5
            )
            for s in range(20, 401, 20)
        )
        return StrategyResult(
            name, kind, tuple(answers), tuple(scores), tokens, tokens / 3, parameters, 500, f"about {name}",  # type: ignore[arg-type]
            curve if seed else (),
        )  # fmt: skip

    strategies = (
        strategy("majority class", "baseline", 0.5, 0),
        strategy("TF-IDF + logistic regression", "baseline", 0.79, 0, 31_442),
        strategy("zero-shot", "hard", 0.66, 61.4),
        strategy("few-shot", "hard", 0.73, 412.7),
        strategy("prompt tuning", "soft", 0.86, 77.4, 9216, seed=1),
        strategy("p-tuning", "soft", 0.85, 77.4, 9216, seed=2),
    )
    return build_result(
        "films", "tiny-lm", 7, "f1" if graded else "accuracy", rows, strategies, "few-shot",
        notes=("12 rows were left out.",), settings={"dtype": "float32", "threads": 2},
    )  # fmt: skip


@cache
def usual() -> tuple[Result, str]:
    """The usual result and its page, made once for the tests that only read them."""
    result = fake()
    return result, render_report(result)


def only(result: Result, *names: str) -> Result:
    chosen = [result.strategy(name) for name in names]
    return build_result(result.task, result.backbone, 7, result.metric, result.rows, chosen, names[0])


def test_the_page_stands_alone() -> None:
    html = usual()[1]
    page = Page(html)
    assert page.open == []
    assert re.findall(r"https?:|//[a-z]|@import|javascript:", html) == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "img"}
    for _, attrs in page.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert len(html.encode()) < 300_000


def test_the_same_result_gives_the_same_page() -> None:
    assert render_report(fake()) == usual()[1]


def test_the_summary_shows_the_numbers_of_the_json_best_first() -> None:
    result, html = usual()
    data, page = result.to_json(), Page(html)
    assert data["verdict"] in page.text.replace("\u00a0", " ")
    shown = {
        row[0].split("soft prompt ·")[0].split("hard prompt ·")[0].split("baseline ·")[0]: row for row in page.tables[0]
    }
    against = {c["a"]: c for c in data["comparisons"]}
    for s in data["strategies"]:
        row, value = shown[s["name"]], s["metrics"]["accuracy"]
        text = f"{100 * value['value']:.1f}\u00a0%{100 * value['low']:.1f} to {100 * value['high']:.1f}"
        assert row[1] == text
        if s["name"] == "few-shot":
            assert row[2] == "reference"
        else:
            c = against[s["name"]]
            assert row[2].replace("−", "-").startswith(f"{100 * c['difference']:+.1f}{100 * c['low']:.1f} to")
        assert row[5] == f"{s['trained_parameters']:,}"
    values = [float(row[1].split("\u00a0")[0]) for row in page.tables[0][1:]]
    assert values == sorted(values, reverse=True)


def test_charts_are_named_for_those_who_cannot_see_them() -> None:
    result, html = usual()
    charts = Page(html).with_class("chart")
    assert [a["role"] for a in charts] == ["img"] * 3
    for s in result.strategies:
        spoken = f"{s.name} {100 * s.mean:.1f} %"
        assert spoken in (charts[0]["aria-label"] or "")
        assert f"{spoken} at" in (charts[1]["aria-label"] or "")
    assert "prompt tuning ends at loss 0.312 after 400 steps; p-tuning" in (charts[2]["aria-label"] or "")


def test_table_headers_say_what_they_head() -> None:
    for html in (usual()[1], render_report(fake(tuple(f"label {i}" for i in range(77)), n=200))):
        heads = [attrs for tag, attrs in Page(html).elements if tag == "th"]
        assert heads
        assert all(attrs.get("scope") in ("col", "row") for attrs in heads)


def test_references_inside_charts_are_unique() -> None:
    ids = [attrs["id"] for _, attrs in Page(usual()[1]).elements if attrs.get("id")]
    assert len(ids) == len(set(ids))


def test_hostile_texts_are_only_ever_text() -> None:
    rows = tuple(Row(ATTACK + str(i), {ATTACK: ATTACK}, ATTACK if i % 2 else "fine") for i in range(40))
    curve = (CurvePoint(1, 8, 0.5, 0.5, 1.0), CurvePoint(2, 16, 0.4, 0.6, 2.0))

    def strategy(name: str, kind: str, right: int) -> StrategyResult:
        scores = tuple(float(i < right) for i in range(40))
        return StrategyResult(name, kind, (ATTACK,) * 40, scores, 5, 5, 0, 0, ATTACK, curve)  # type: ignore[arg-type]

    strategies = [strategy(ATTACK, "hard", 20), strategy("$\\frac{x}$ 映画 \U0001f3ac", "soft", 30)]
    result = build_result(ATTACK, ATTACK, 0, "accuracy", rows, strategies, ATTACK, (ATTACK,), {ATTACK: ATTACK})
    page = Page(render_report(result))
    assert page.open == []
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert page.text.count(ATTACK) > 20  # shown as written: names, inputs, targets, answers, notes
    assert "$\\frac{x}$ 映画 \U0001f3ac" in page.text


def test_differing_rows_come_from_both_sides_and_say_right_or_wrong_in_words() -> None:
    result, html = usual()
    shown = [html[start : html.index("</article>", start)] for start in _starts(html, '<article class="card row">')]
    assert len(shown) == 10
    index = {row.id: i for i, row in enumerate(result.rows)}
    tuned, base = result.strategy("prompt tuning"), result.strategy("few-shot")
    sides = []
    for article in shown:
        found = re.search(r"Row (test:\d+)<", article)
        assert found is not None
        i = index[found[1]]
        sides.append(tuned.scores[i] - base.scores[i])
        marks = re.findall(r'<li class="(right|wrong)">.*?<span>([^<]*)</span><span class="mark">. (\w+)<', article)
        assert marks == [
            ("right" if s.scores[i] else "wrong", s.name, "right" if s.scores[i] else "wrong")
            for s in result.strategies
        ]
        assert result.rows[i].inputs["text"] in article
    assert sorted(sides) == [-1.0] * 5 + [1.0] * 5
    gains = sum(x > y for x, y in zip(tuned.scores, base.scores, strict=True))
    losses = sum(x < y for x, y in zip(tuned.scores, base.scores, strict=True))
    assert f"on {gains} of 1,000 test rows, and lower on {losses}." in html


def _starts(text: str, mark: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(mark), text)]


def test_confusion_counts_are_the_rows() -> None:
    result, html = usual()
    page = Page(html)
    matrices = page.tables[1:]
    assert len(matrices) == 6
    for table, s in zip(matrices, result.strategies, strict=True):
        assert table[0] == ["", "negative", "positive", "(other)"]
        for line in table[1:]:
            for answer, cell in zip(table[0][1:], line[1:], strict=True):
                pairs = zip(result.rows, s.predictions, strict=True)
                known = ("negative", "positive")
                count = sum(r.target == line[0] and (p if p in known else "(other)") == answer for r, p in pairs)
                assert cell == (f"{count:,}" if count else "")


def test_many_labels_become_matrices_of_two_strategies_and_then_a_list_of_pairs() -> None:
    some = Page(render_report(fake(tuple(f"label {i:02}" for i in range(20)), n=200)))
    assert len(some.tables) == 3
    assert len(some.tables[1]) == 21
    result = fake(tuple(f"label {i:02}" for i in range(77)), n=1500)
    many = Page(render_report(result))
    assert len(many.tables) == 2
    head, *lines = many.tables[1]
    assert head == ["true label", "answer", "zero-shot", "few-shot", "prompt tuning", "p-tuning"]
    assert len(lines) == 15
    totals = []
    for target, answer, *cells in lines:
        counts = [
            sum(
                r.target == target and p == answer
                for r, p in zip(result.rows, result.strategy(name).predictions, strict=True)
            )
            for name in head[2:]
        ]
        assert cells == [str(count) if count else "·" for count in counts]
        totals.append(sum(counts))
    assert totals == sorted(totals, reverse=True)
    assert len(render_report(result)) < 300_000


def test_free_text_has_no_confusions() -> None:
    result = fake(tuple(f"answer {i}" for i in range(900)), n=90)
    assert len(Page(render_report(result)).tables) == 1


@pytest.mark.parametrize("names", [("few-shot",), ("few-shot", "zero-shot"), ("few-shot", "majority class")])
def test_few_strategies_and_nothing_learned(names: tuple[str, ...]) -> None:
    page = Page(render_report(only(usual()[0], *names)))
    assert len(page.with_class("chart")) == 2
    assert ("Where the answers differ" in page.text) == (len(names) > 1)
    assert "no soft prompt was compared" in page.text


def test_graded_scores_show_scores_not_right_and_wrong() -> None:
    result = fake(graded=True, n=120)
    html = render_report(result)
    page = Page(html)
    assert "✓" not in page.text
    assert len(page.tables) == 1
    assert "percentile bootstrap" in page.text
    assert "paired sign-flip permutation" in page.text
    assert f"{result.strategy('p-tuning').mean:.3f}" in page.tables[0][2][1] + page.tables[0][1][1]


def test_very_long_inputs_are_clipped_and_the_page_stays_small() -> None:
    html = render_report(fake(text="long " * 20_000, n=60))
    assert len(html.encode()) < 500_000
    assert "more characters" in html
    assert len(Page(html).with_class("whole")) == 10


def test_how_it_was_measured_is_said() -> None:
    text = " ".join(Page(usual()[1]).text.replace("\u00a0", " ").split())
    for fact in ("1,000, the same for every strategy", "nothing was chosen on test", "seed 7", "tiny-lm", "float32"):
        assert fact in text
    for method in ("Wilson", "Newcombe", "exact McNemar", "Holm", "12 rows were left out."):
        assert method in text
