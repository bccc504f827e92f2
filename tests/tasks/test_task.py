"""Task files: what a good one gives, and what a bad one is told."""

import csv
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from foreword.errors import ForewordError
from foreword.tasks import Row, Task


def data(path: Path, rows: list[tuple[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def task(folder: Path, **changed: Any) -> Path:
    form: dict[str, Any] = {
        "name": "mood",
        "data": "rows.csv",
        "inputs": ["text"],
        "target": {"column": "label", "choices": ["bad", "good"], "labels": {"0": "bad", "1": "good"}},
    }
    form |= changed
    path = folder / "mood.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in form.items() if value is not None}), encoding="utf-8")
    return path


def test_one_source_is_deduplicated_and_drawn_by_the_seed(tmp_path: Path) -> None:
    rows = [(f"film {i}", str(i % 3 // 2)) for i in range(90)]
    repeats = [("FILM  0", "0"), ("film 1 ", "1"), ("Film 2", "good")]  # the same, contradicted, the same by its name
    data(tmp_path / "rows.csv", rows + repeats)
    path = task(tmp_path, split={"dev": 9, "test": 0.2}, seed=7)
    mood = Task.load(path)
    assert (mood.name, mood.inputs, mood.choices, mood.metric, mood.seed) == (
        "mood",
        ("text",),
        ("bad", "good"),
        "accuracy",
        7,
    )
    assert (len(mood.train), len(mood.dev), len(mood.test)) == (63, 9, 18)
    drawn = {row.id: row for row in mood.train + mood.dev + mood.test}
    expected = {
        f"rows.csv:{line}": Row(f"rows.csv:{line}", {"text": text}, ("bad", "good")[int(label)])
        for line, (text, label) in enumerate(rows, start=2)
    }
    assert drawn == expected
    assert mood.notes == (
        "dropped 3 rows whose inputs stand earlier in the source, 1 of them with another target there",
    )

    again, other = Task.load(path), Task.load(path, seed=8)
    assert again == mood
    assert again.data_hash == mood.data_hash == pickle.loads(pickle.dumps(mood)).data_hash
    assert other.seed == 8
    assert {row.id for row in other.test} != {row.id for row in mood.test}
    assert other.data_hash != mood.data_hash


def test_the_hash_sees_every_split_input_and_target(tmp_path: Path) -> None:
    path = task(tmp_path, data={"train": "train.csv", "test": "test.csv"})
    hashes = []
    for train, test in [("a0 b1", "c0"), ("a0", "b1 c0"), ("a0 b1", "c1"), ("a0 b1", "d0"), ("b1 a0", "c0")]:
        data(tmp_path / "train.csv", [(row[0], row[1]) for row in train.split()])
        data(tmp_path / "test.csv", [(row[0], row[1]) for row in test.split()])
        hashes.append(Task.load(path).data_hash)
    assert len(set(hashes)) == 5


def test_named_files_keep_their_rows_but_share_no_input(tmp_path: Path) -> None:
    data(tmp_path / "a" / "rows.csv", [("x", "0"), ("Seen", "0"), ("x", "0"), ("y", "1"), ("dev", "1")])
    data(tmp_path / "dev.csv", [("dev", "1"), ("seen ", "1")])
    data(tmp_path / "b" / "rows.csv", [("seen", "1"), ("new", "0")])
    mood = Task.load(task(tmp_path, data={"train": "a/rows.csv", "dev": "dev.csv", "test": "b/rows.csv"}))
    assert [row.id for row in mood.train] == ["a/rows.csv:2", "a/rows.csv:4", "a/rows.csv:5"]
    assert [row.id for row in mood.dev] == ["dev.csv:2"]
    assert [row.id for row in mood.test] == ["b/rows.csv:2", "b/rows.csv:3"]
    assert mood.notes == (
        "dropped 1 dev rows whose inputs also stand in dev or test",
        "dropped 2 train rows whose inputs also stand in dev or test",
    )
    data(tmp_path / "dev.csv", [("seen", "1")])
    with pytest.raises(ForewordError, match="split 'dev' is empty"):
        Task.load(task(tmp_path, data={"train": "a/rows.csv", "dev": "dev.csv", "test": "b/rows.csv"}))


def test_free_text_targets_are_scored_by_exact_match_unless_told(tmp_path: Path) -> None:
    data(tmp_path / "rows.csv", [("capital of France?", "Paris"), ("its river?", "the Seine")])
    target = {"column": "label"}
    answers = Task.load(task(tmp_path, target=target))
    assert (answers.choices, answers.metric, answers.dev, answers.test) == (None, "exact_match", (), ())
    by_question = sorted(answers.train, key=lambda row: row.inputs["text"])
    assert answers.score(["paris.", "river Seine"], by_question) == [1, 0]
    words = Task.load(task(tmp_path, target=target, metric="f1"))
    assert words.score(["paris.", "river Seine"], by_question) == pytest.approx([1, 2 / 3])
    with pytest.raises(ValueError, match="zip"):
        words.score(["paris."], by_question)


def test_the_majority_stays_the_majority(tmp_path: Path) -> None:
    labels = ["1"] * 130 + ["0"] * 870
    random.Random(0).shuffle(labels)
    data(tmp_path / "rows.csv", [(f"{i}", label) for i, label in enumerate(labels)])
    for seed in range(5):
        mood = Task.load(task(tmp_path, split={"dev": 100, "test": 200, "train": 50}), seed=seed)
        shares = [sum(row.target == "good" for row in part) for part in (mood.dev, mood.test, mood.train)]
        assert shares == pytest.approx([13, 26, 6.5], abs=2)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("x", "0"), ("y", "2")], r"mood.yaml.*rows.csv', line 3: column 'label': '2' is none of .*'bad', 'good'"),
        ([("x", "0"), (" \t", "1")], r"rows.csv', line 3: column 'text': the value ' \\t' is empty"),
        ([("x", "")], r"rows.csv', line 2: column 'label': the value '' is empty"),
        ([], r"mood.yaml.*rows.csv' has no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[tuple[str, str]], said: str) -> None:
    data(tmp_path / "rows.csv", rows)
    with pytest.raises(ForewordError, match=said):
        Task.load(task(tmp_path))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mertic": "f1"}, r"no key 'mertic'; did you mean 'metric'\?"),
        ({"metric": "bleu"}, r"'metric': 'bleu' is none of the metrics 'accuracy', 'exact_match', 'f1'"),
        ({"inputs": None}, r"'inputs' is required$"),
        ({"inputs": None, "input": ["text"]}, r"'inputs' is required; did you mean it by 'input'\?"),
        ({"inputs": "text"}, r"'inputs': must be a list of texts, not 'text'"),
        ({"inputs": []}, r"'inputs': .*at least 1 item"),
        ({"inputs": ["text", "label"]}, r"the target column 'label' stands among `inputs`"),
        ({"data": 3}, r"'data': must be a mapping of keys to values, not 3"),
        ({"data": {"source": "a.csv", "test": "b.csv"}}, r"'data': `dev` and `test` go with `train`"),
        ({"data": {"train": "a.csv", "where": {"x": 1}}}, r"'data': `sha256` and `where` go with `source`"),
        ({"data": {"dev": "a.csv"}}, r"'data': give either `source` or `train`"),
        ({"data": {"train": "a.csv"}, "split": {"dev": 5}}, r"`split` divides one source"),
        ({"split": {"dev": 1.5}}, r"'split.dev': 1.5 is neither a count of rows nor a share"),
        ({"split": {"dev": True}}, r"'split.dev': True is neither"),
        ({"target": {"column": "label", "choices": [True, False]}}, r"'target.choices.0': .*True; put it in quotes"),
        ({"target": {"column": "label", "choices": ["a", "a"]}}, r"'target': a choice stands twice"),
        ({"target": {"column": "label", "choices": [0, 1], "labels": {0: "no"}}}, r"maps '0' to 'no', which is none"),
        (
            {"target": {"column": "label", "schema": {}}},
            r"'target': no key 'schema'; there are: column, choices",
        ),
        ({"seed": "7"}, r"'seed': .*integer, not '7'"),
        ({"name": "../up"}, r"'name': .*not '../up'"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ForewordError, match=rf"(?s)^task file '.*mood.yaml'[,:] .*{said}"):
        Task.load(task(tmp_path, **changed))


def test_an_unreadable_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForewordError, match=r"task file '.*none.yaml': No such file"):
        Task.load(tmp_path / "none.yaml")
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    for content, said in (
        (b"name: [1", r"bad.yaml': this is no YAML: line 2"),
        (b"just words", r"task file '.*bad.yaml' is not a mapping"),
        (b"\xff\x00", r"task file '.*bad.yaml' is no text in UTF-8"),
        (bomb, r"bad.yaml': aliases \(\*name\) are not allowed"),
        (b"name: " + b"x" * 50_000, r"bad.yaml' has 50,006 characters of YAML, 50,000 at most"),
    ):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(ForewordError, match=said):
            Task.load(tmp_path / "bad.yaml")
