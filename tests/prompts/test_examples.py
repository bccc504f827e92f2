"""Examples of a prompt: which rows are shown, and that a stored prompt shows them anywhere."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.errors import ForewordError
from foreword.prompts import Examples, Input, Prompt, Text, few_shot

ROWS = (
    {"text": "I was charged twice this month", "label": "billing"},
    {"text": "The app crashes at login", "label": "technical"},
    {"text": "My invoice is missing", "label": "billing"},
    {"text": "A white page after login", "label": "technical"},
    {"text": "Refund the second charge", "label": "billing"},
)
LOOP = "{% for example in examples %}{{ example.text }}={{ example.label }};{% endfor %}{{ text }}"
VALUE = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.booleans() | st.integers(-(10**9), 10**9)


def shown(text: str = "x", **settings: object) -> list[int]:
    examples = Examples.model_validate({"rows": ROWS, **settings})
    return [ROWS.index(row) for row in examples.chosen({"text": text}, len)]


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text("ab_ é", min_size=1), VALUE, min_size=1, max_size=3), min_size=1, max_size=4))
def test_rows_survive_in_the_front_matter(rows: list[dict[str, object]]) -> None:
    prompt = Prompt("p", "{{ examples|tojson }}", examples=Examples.model_validate({"rows": rows}))
    again = Prompt.from_text(prompt.to_text(), "p.prompt")
    assert again.digest == prompt.digest  # made in Python or read from its file
    assert again.render({}) == (Text(json.dumps(rows, ensure_ascii=False)),)


def test_fixed_random_and_balanced_do_not_depend_on_the_row() -> None:
    assert shown() == [0, 1, 2, 3, 4]
    assert shown(count=2) == [0, 1]
    for choose in ("fixed", "random", "balanced"):
        for count in (1, 3, 9):
            assert shown("a", choose=choose, count=count) == shown("b", choose=choose, count=count)
    orders = {tuple(shown(choose="random", seed=seed)) for seed in range(9)}
    assert len(orders) > 3
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    for seed in range(9):
        labels = [ROWS[i]["label"] for i in shown(choose="balanced", seed=seed)]
        assert labels == ["billing", "technical", "billing", "technical", "billing"]


def test_similar_rows_stand_nearest_to_the_row_that_they_are_like() -> None:
    assert shown("Why was I charged twice?", choose="similarity", count=2)[-1] == 0
    assert shown("The login page is white", choose="similarity", count=1) == [3]
    assert shown("Where is my invoice?", choose="similarity") == shown("Where is my invoice?", choose="similarity")
    assert shown("Where is my invoice?", choose="similarity")[-1] == 2
    assert shown("§", choose="similarity", count=2) == [1, 0]  # like none: the first ones
    with pytest.raises(ForewordError, match="need a column named as an input is"):
        Examples(rows=({"a": "b"},), choose="similarity").chosen({"text": "x"}, len)
    assert len(shown("word " * 200_000, choose="similarity", count=2)) == 2


@given(st.integers(1, 200), st.sampled_from(["maxLength", "maxTokens"]), st.sampled_from(["fixed", "similarity"]))
def test_a_length_budget_takes_what_fits_and_no_more(limit: int, unit: str, choose: str) -> None:
    chosen = shown("login", choose=choose, **{unit: limit})
    lengths = [len(f"{row['text']} {row['label']}") for row in ROWS]
    used = sum(lengths[i] for i in chosen)
    assert used <= limit
    assert all(used + length > limit for i, length in enumerate(lengths) if i not in chosen)


def test_a_file_beside_the_prompt_becomes_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"two\nlines, and ""quotes""",x\nb,y\n')
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b", "label": 1}\n\n{"text": "{{ user() }}", "label": true}\n')
    for name, first in (("a.csv", 'two\nlines, and "quotes"=x;b=y;'), ("a.jsonl", "a\u2028b=1;{{ user() }}=True;")):
        path = tmp_path / "p.prompt"
        path.write_text(f"---\nexamples: {{file: {name}}}\ninputs: {{text: {{}}}}\n---\n{LOOP}")
        prompt = Prompt.load(path)
        assert prompt.variables == ("text",)
        assert prompt.labelled_rows == 2
        assert prompt.render({"text": "!"}) == (Text(f"{first}!"),)
        assert Prompt.from_text(prompt.to_text(), "stored").digest == prompt.digest


@pytest.mark.parametrize(
    ("front", "why"),
    [
        ("{}", "either a 'file' or 'rows'"),
        ("{file: a.csv, rows: [{a: b}]}", "either a 'file' or 'rows'"),
        ("{file: ../out.csv}", "outside of the prompt's folder"),
        ("{file: /etc/passwd}", "outside of the prompt's folder"),
        ("{file: link.csv}", "outside of the prompt's folder"),
        ("{file: gone.csv}", "p.prompt', 'examples.file': there is no 'gone.csv' beside it"),
        ("{file: pipe.csv}", "no ordinary file"),
        ('{file: "a\\0.csv"}', "are no file"),
        ("{file: twice.csv}", "line 1: two columns have one name"),
        ("{file: odd.txt}", "neither '.csv' nor '.jsonl'"),
        ("{file: ragged.csv}", "line 3: not 2 fields"),
        ("{file: broken.jsonl}", "line 2: malformed JSON"),
        ("{file: list.jsonl}", "line 1: not a JSON object"),
        ("{file: nested.jsonl}", "rows.0.text"),
        ("{file: long.jsonl}", "40,000 at most"),
        ("{file: many.csv}", "1 to 1,000 examples"),
        ("{file: huge.csv}", "more than 1,000,000 bytes"),
        ("{rows: [{text: a}], choose: balanced}", "needs the column 'label'"),
        ("{rows: [{text: a}], choose: best}", "choose"),
        ("{rows: [{text: .nan}]}", "rows.0.text"),
    ],
)
def test_examples_that_cannot_be_used_are_refused(tmp_path: Path, front: str, why: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "out.csv").write_text("text,label\na,b\n")
    (folder / "link.csv").symlink_to(tmp_path / "out.csv")
    os.mkfifo(folder / "pipe.csv")
    (folder / "twice.csv").write_text("text,text\na,b\n")
    (folder / "odd.txt").write_text("a")
    (folder / "ragged.csv").write_text("text,label\na,b\nc\n")
    (folder / "broken.jsonl").write_text('{"text": "a"}\n{"text"\n')
    (folder / "list.jsonl").write_text("[1]\n")
    (folder / "nested.jsonl").write_text('{"text": {"a": 1}}\n')
    (folder / "long.jsonl").write_text("".join(json.dumps({"text": "a" * 9_000}) + "\n" for _ in range(5)))
    (folder / "many.csv").write_text("text\n" + "a\n" * 1_001)
    (folder / "huge.csv").write_text("text\n" + "a" * 1_000_000)
    path = folder / "p.prompt"
    path.write_text(f"---\nexamples: {front}\n---\n{LOOP}")
    with pytest.raises(ForewordError, match=why):
        Prompt.load(path)


def test_a_file_is_read_beside_a_prompt_file_only() -> None:
    with pytest.raises(ForewordError, match="examples stand in 'rows'"):
        Prompt("p", "{{ examples }}", examples=Examples(file="rows.csv"))
    with pytest.raises(ForewordError, match="read beside a prompt file only"):
        Prompt.from_text("---\nname: p\nexamples: {file: a.csv}\n---\nx", "stored")


def test_examples_is_a_name_like_any_other_where_there_are_none() -> None:
    prompt = Prompt("p", "{{ examples }}")
    assert prompt.render({"examples": "x"}) == (Text("x"),)
    with pytest.raises(ForewordError, match="no input can be called 'examples'"):
        Prompt("p", "x", {"examples": Input()}, examples=Examples(rows=ROWS))
    with pytest.raises(ForewordError, match="examples of its own"):
        few_shot(Prompt("p", LOOP, examples=Examples(rows=ROWS)), [({"text": "a"}, "b")])
