"""How long reads of a large prompt table in SQLite take, on this machine.

Half of the versions are of one name, the others of a thousand names; each name has an alias. Milliseconds, median of
many rounds:

- `hit`: `get("name@prod")` of what this process has read before and nobody has changed since.
- `read`: the same of what it has not read before.
- `read after a write`: of what it has read before, after another process has written.
- `open and read`: the table opened and one prompt read, as a command does.
- `page`, `search`: 50 entries of a listing; those in which a rare word stands.
- `put`: a new version stored.

    python benchmarks/table.py [--json] [--versions 100000]
"""

import argparse
import hashlib
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import create_engine, insert

from foreword.prompts import Prompt
from foreword.table import PromptTable
from foreword.table.schema import AliasRow, PromptRow

NAMES = 1_000
BODY = "You answer mail of customers in one polite paragraph.\n\n{{ text }}\n\nAnswer number {n}:"
PATTERN = Prompt("some-name", BODY).to_text()
FIELDS = {"kind": "hard", "virtual_tokens": 0, "author": "benchmark", "created": datetime(2026, 1, 1, tzinfo=UTC)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--versions", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.db"
        fill(path, options.versions)
        cases = [{"case": case, "ms": round(ms, 4), "versions": options.versions} for case, ms in measure(path)]
    versions = {"sqlite": sqlite3.sqlite_version, "sqlalchemy": sqlalchemy.__version__}
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), **versions}
    if options.json:
        print(json.dumps({"machine": machine, "cases": cases}, indent=2))
        return
    for case in cases:
        print(f"{case['case']:20} {case['ms']:8.3f} ms")
    print(f"\n{options.versions:,} versions; {machine}")


def fill(path: Path, versions: int) -> None:
    """Makes the table, and its rows in bulk."""
    PromptTable.open(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for name, amount in [("busy", versions // 2), *((f"name-{i}", versions // 2 // NAMES) for i in range(NAMES))]:
            connection.execute(insert(PromptRow), [row(name, version) for version in range(1, amount + 1)])
            connection.execute(insert(AliasRow), {"name": name, "alias": "prod", "version": max(1, amount // 2)})
    engine.dispose()


def row(name: str, version: int) -> dict[str, Any]:
    text = PATTERN.replace("some-name", name).replace("{n}", str(version))
    digest = hashlib.sha256(f"{text}\n".encode()).hexdigest()  # as in Prompt.digest, which would take minutes here
    versioned = {"name": name, "version": version, "text": text, "digest": digest, "words": text.casefold()}
    return {**FIELDS, **versioned, "message": "", "parent": f"{name}:{version - 1}" if version > 1 else None}


def measure(path: Path) -> Iterator[tuple[str, float]]:
    table, other = PromptTable.open(path), PromptTable.open(path)
    table.get("busy@prod")
    yield "hit", milliseconds(lambda: table.get("busy@prod"), 1_000)
    names = (f"name-{i}@prod" for i in range(NAMES))
    yield "read", milliseconds(lambda: table.get(next(names)), 200)
    versions = (i % 2 + 1 for i in count())
    table.get("busy@prod")
    yield (
        "read after a write",
        milliseconds(lambda: table.get("busy@prod"), 50, before=lambda: other.alias("busy", "staging", next(versions))),
    )
    yield "open and read", milliseconds(lambda: PromptTable.open(path).get("name-500@prod"), 30)
    yield "page", milliseconds(lambda: table.list(limit=50, after="name-500"), 10)
    yield "page of versions", milliseconds(lambda: table.list("busy", limit=50, after="busy:1000"), 10)
    yield "search", milliseconds(lambda: table.search("number 777:", limit=50), 5)
    new = count()
    yield "put", milliseconds(lambda: table.put(Prompt("busy", f"new {next(new)}"), alias="staging"), 30)


def milliseconds(call: Callable[[], object], rounds: int, before: Callable[[], object] = lambda: None) -> float:
    seconds = []
    for _ in range(rounds):
        before()
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
