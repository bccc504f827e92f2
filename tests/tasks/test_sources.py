"""Every format against the same rows, and every way a row can be bad against the line it stands on."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreword.errors import ForewordError
from foreword.tasks import sources

ROWS: list[dict[str, Any]] = [
    {"text": 'Two\nlines, and a "quote"', "label": 1, "from": "a"},
    {"text": "naïve – 映画", "label": 0, "from": "b"},
    {"text": "plain", "label": 1, "from": "a"},
]


def write(path: Path) -> Path:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label", "from"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize(("name", "lines"), [("a.csv", [2, 4, 5]), ("a.jsonl", [1, 3, 5]), ("a.parquet", [1, 2, 3])])
def test_formats_agree_and_know_their_lines(tmp_path: Path, name: str, lines: list[int]) -> None:
    path = write(tmp_path / name)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    read = sources.read(name, tmp_path, ["text", "label"], sha256=sha256)
    assert read.name == name
    assert [dict(record.values) for record in read.records] == [
        {"text": row["text"], "label": str(row["label"])} for row in ROWS
    ]
    assert [record.line for record in read.records] == lines

    chosen = sources.read(name, tmp_path, ["text"], where={"from": "a", "label": "1"})
    assert ([record.line for record in chosen.records], chosen.left_out) == ([lines[0], lines[2]], 1)
    with pytest.raises(ForewordError, match=f"{name}' has no rows where 'from' is 'c'"):
        sources.read(name, tmp_path, ["text"], where={"from": "c"})
    with pytest.raises(ForewordError, match="not the expected"):
        sources.read(name, tmp_path, ["text"], sha256="0" * 64)


def test_a_hub_dataset_reads_like_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load(*names: str, split: str) -> datasets.Dataset:
        asked.append((*names, split))
        if split == "absent":
            raise ValueError('Unknown split "absent".')
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    read = sources.read("hf:org/films/small:test", tmp_path, ["text", "label"], where={"from": "a"})
    assert [(record.line, record.values["label"]) for record in read.records] == [(1, "1"), (3, "1")]
    sources.read("hf:films", tmp_path, ["text"])
    assert asked == [("org/films", "small", "test"), ("films", "train")]
    with pytest.raises(ForewordError, match=r"'hf:org/films:absent': Unknown split"):
        sources.read("hf:org/films:absent", tmp_path, ["text"])
    with pytest.raises(ForewordError, match=r"has no column 'txt'.*Did you mean 'text'"):
        sources.read("hf:org/films", tmp_path, ["txt"])
    with pytest.raises(ForewordError, match="is not of the form"):
        sources.read("hf:a/b/c/d", tmp_path, ["text"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text,label\nx,1\ny\n", r"line 3: 1 fields instead of 2: 'y'"),
        ("a.csv", b'text,label\n"x\ny",1\nz,1,2\n', r"line 4: 3 fields instead of 2: 'z,1,2'"),
        ("a.csv", b'text,label\nx,1\n"y,2\nz,3\n', r"line 3: malformed CSV \(unexpected end of data\)"),
        ("a.csv", b'text,label\nx,1\n"y"z,2\n', r"line 3: malformed CSV"),
        ("a.csv", b"text,label\n" + b"x,1\n" * 9000 + b"caf\xe9,1\n", r"line 9002: not UTF-8 at b'caf\\xe9,1\\n'"),
        ("a.csv", b"text,Label\nx,1\n", r"has no column 'label'; it has 'text', 'Label'. Did you mean 'Label'\?"),
        ("a.csv", b"text,label,text\nx,1,y\n", r"2 columns named 'text'"),
        ("a.csv", b"", r"a.csv' is empty"),
        ("a.csv", b"text,label\n", r"a.csv' has no rows"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', r"line 2: malformed JSON .*: '\{\"text\": \\n'"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n[1]\n', r"line 2: not a JSON object: '\[1\]"),
        ("a.jsonl", b"[" * 100_000, r"line 1: malformed JSON"),
        ("a.jsonl", b'\n{"text": "x"}\n', r"line 2: no column 'label'; it has 'text'"),
        ("a.jsonl", b'{"text": null, "label": 1}', r"line 1: column 'text': the value is missing \(None\)"),
        ("a.jsonl", b'{"text": "x", "label": NaN}', r"line 1: column 'label': the value is missing"),
        ("a.jsonl", b'{"text": ["x"], "label": 1}', r"line 1: column 'text': \['x'\] is a list"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 1}', r"line 1: column 'text': .* surrogate"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": "\xff"}', r"line 2: not UTF-8"),
        ("a.parquet", b"PAR1 not really", r"cannot read .*a.parquet' as Parquet"),
        ("a.txt", b"x", r"'.txt' is none of '.csv', '.jsonl', '.parquet'"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ForewordError, match=said):
        sources.read(name, tmp_path, ["text", "label"])


def test_a_field_longer_than_pythons_limit_is_read_and_the_limit_put_back(tmp_path: Path) -> None:
    csv.field_size_limit(131_072)
    (tmp_path / "long.csv").write_text(f"\ufefftext\n{'x' * 1_000_000}\n", encoding="utf-8")
    assert len(sources.read("long.csv", tmp_path, ["text"]).records[0].values["text"]) == 1_000_000
    assert csv.field_size_limit() == 131_072


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForewordError, match=r"none\.csv' does not exist"):
        sources.read("none.csv", tmp_path, ["text"])


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_csv_gives_back_what_was_written_at_the_lines_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    lines = []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["one", "two"])
        for row in rows:
            file.flush()
            with path.open(encoding="utf-8") as written:  # universal newlines: counts as an editor does
                lines.append(written.read().count("\n") + 1)
            writer.writerow(row)
    records = sources.read(path.name, path.parent, ["one", "two"]).records
    assert [(record.values["one"], record.values["two"]) for record in records] == rows
    assert [record.line for record in records] == lines


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_records_keep_their_values_and_tell_where_they_stand(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    found = list(sources.records(path, ["text", "label"]))
    places = {"rows.csv": (2, 4, 5), "rows.jsonl": (1, 3, 5), "rows.parquet": (1, 2, 3)}[name]
    unit = "row" if name == "rows.parquet" else "line"
    assert [where for where, _ in found] == [f"{str(path)!r}, {unit} {place}" for place in places]
    kind = str if name == "rows.csv" else int
    assert [(values["text"], values["label"]) for _, values in found] == [(r["text"], kind(r["label"])) for r in ROWS]
    with pytest.raises(ForewordError, match="does not exist"):
        list(sources.records(tmp_path / "none.csv", []))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": ["fine"]}\n{"text": ["\\ud800"]}\n')
    with pytest.raises(ForewordError, match="line 2: it holds half a surrogate pair"):
        list(sources.records(broken, ["text"]))
