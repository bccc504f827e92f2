"""Rows of a small CSV or JSONL file beside a prompt. Knows the two formats; not what a column means."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from foreword.errors import ForewordError
from foreword.files import read_text

MAX_BYTES = 1_000_000


def read_records(path: Path, limit: int) -> list[dict[str, Any]]:
    """All rows, `limit` at most. Raises ForewordError with the line of one that cannot be read."""
    text = read_text(path, "examples", MAX_BYTES)
    match path.suffix.lower():
        case ".csv":
            rows = _csv(text, str(path))
        case ".jsonl":
            rows = _jsonl(text, str(path))
        case suffix:
            raise ForewordError(f"cannot read examples {str(path)!r}: {suffix!r} is neither '.csv' nor '.jsonl'")
    if not 1 <= len(rows) <= limit:
        raise ForewordError(f"{str(path)!r} has {len(rows):,} rows; a prompt takes 1 to {limit:,} examples")
    return rows


def _csv(text: str, place: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="")
    rows = []
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise ForewordError(f"{place!r}, line 1: two columns have one name, {', '.join(names):.200}; rename one")
        for row in reader:
            if None in row.values() or "" in row:
                raise ForewordError(f"{place!r}, line {reader.line_num}: not {len(reader.fieldnames or ())} fields")
            rows.append(dict(row))
    except csv.Error as error:
        raise ForewordError(f"{place!r}, line {reader.line_num}: malformed CSV ({error})") from error
    return rows


def _jsonl(text: str, place: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ForewordError(f"{place!r}, line {number}: malformed JSON ({error})") from error
        if not isinstance(row, dict):
            raise ForewordError(f"{place!r}, line {number}: not a JSON object")
        rows.append(row)
    return rows
