"""From every released revision up and down again, with data, in every kind of database."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, inspect, select
from sqlalchemy.pool import NullPool

from foreword.files import data_dir, write_atomic
from foreword.prompts import Prompt, SoftTokens
from foreword.table import PromptTable
from foreword.table.database import locate
from foreword.table.migrations import HEAD, VERSION_TABLE, _config, downgrade, upgrade
from foreword.table.schema import Base

SOFT = SoftTokens({"embeddings": np.ones((2, 4), np.float32)}, "tiny", "f" * 64, "prompt-tuning", "run-1", 8)
FIRST = (
    Prompt("a.b", "Ünder {{ text }}", description="Is it näce?"),
    Prompt("a-b", "{{ virtual(2) }}{{ text }}", soft=SOFT),
    Prompt("a.b", "second: yes"),
)
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)


@contextmanager
def connection(address: str) -> Iterator[Connection]:
    engine = create_engine(locate(address)[0], poolclass=NullPool)
    with engine.begin() as connected:
        yield connected


def at_first_revision(address: str) -> None:
    """A database as the first release wrote it: three versions, two aliases, vectors in a folder."""
    folder = Path(address).parent if "://" not in address else data_dir()
    versions: dict[str, int] = {}
    with connection(address) as connected:
        upgrade(connected, "0001")
        tables = MetaData()
        tables.reflect(connected)
        for prompt in FIRST:
            versions[prompt.name] = versions.get(prompt.name, 0) + 1
            soft = prompt.soft
            row = {
                "name": prompt.name, "version": versions[prompt.name], "text": prompt.to_text(),
                "digest": prompt.digest, "kind": "soft" if soft else "hard", "virtual_tokens": prompt.virtual_tokens,
                "tensors": soft and soft.digest, "fingerprint": soft and soft.fingerprint, "author": "ada",
                "message": "Straße", "created": WHEN,
            }  # fmt: skip
            connected.execute(tables.tables["prompts"].insert().values(**row))
            if soft:
                write_atomic(folder / "tensors" / f"{soft.digest}.safetensors", soft.to_bytes())
        for name, version in (("a.b", 1), ("a-b", 1)):
            connected.execute(tables.tables["aliases"].insert().values(name=name, alias="prod", version=version))


def contents(address: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but those of vectors."""
    with connection(address) as connected:
        tables = MetaData()
        tables.reflect(connected)
        return {
            table.name: sorted(map(tuple, connected.execute(select(table))), key=str)
            for table in tables.sorted_tables
            if table.name != "prompt_tensors"
        }


def check_first(table: PromptTable) -> None:
    """What the first release stored is all there."""
    assert [row.ref for row in table.list()] == ["a-b:1", "a.b:2"]
    for ref, prompt in zip(("a.b:1", "a-b:1", "a.b:2"), FIRST, strict=True):
        assert table.get(ref).digest == prompt.digest
    assert table.get("a.b@prod").digest == FIRST[0].digest
    [newer, older] = table.list("a.b")
    assert (newer.parent, older.parent, older.author, older.created) == ("a.b:1", None, "ada", WHEN)


def test_the_first_revision_goes_up_and_down_and_up_with_all_it_holds(address: str) -> None:
    at_first_revision(address)
    before = contents(address)
    table = PromptTable.open(address)
    check_first(table)
    found = {text: [row.ref for row in table.search(text)] for text in ("NÄCE", "ünder", "strasse", "{{ TEXT", "name")}
    assert found == {
        "NÄCE": ["a.b:1"], "ünder": ["a.b:1"], "strasse": ["a-b:1", "a.b:2"], "{{ TEXT": ["a-b:1", "a.b:1"], "name": [],
    }  # fmt: skip
    added = table.put(
        Prompt("a-b", "{{ virtual(2) }}new", soft=replace(SOFT, run="run-2")),
        alias="prod", tags=["new"], origin={"data": "d" * 64},
    )  # fmt: skip
    table.delete("a.b:2")
    table.unalias("a.b", "prod")
    table.alias("a.b", "prod", 1)
    with connection(address) as connected:
        downgrade(connected, "0001")
    after = contents(address)
    assert after["prompts"] == sorted([*before["prompts"], *rows_of(address, "a-b", 2)], key=str), "and nothing deleted"
    assert after["aliases"] == [("a-b", "prod", 2), ("a.b", "prod", 1)]
    assert after[VERSION_TABLE] == [("0001",)]
    assert after.keys() == before.keys()

    again = PromptTable.open(address)
    assert [row.ref for row in again.list()] == ["a-b:2", "a.b:2"]
    assert again.get("a-b@prod").digest == added.digest, "the vectors have come along"
    with connection(address) as connected:
        downgrade(connected, "base")
        assert set(inspect(connected).get_table_names()) == {VERSION_TABLE}
    PromptTable.open(address).put(Prompt("x", "a"))


def rows_of(address: str, name: str, version: int) -> list[tuple[object, ...]]:
    return [row for row in contents(address)["prompts"] if row[:2] == (name, version)]


def test_the_newest_revision_is_the_schema_that_the_code_works_with(address: str) -> None:
    with connection(address) as connected:
        assert ScriptDirectory.from_config(_config(connected)).get_heads() == [HEAD]
    PromptTable.open(address)
    with connection(address) as connected:
        context = MigrationContext.configure(connected, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_migration_that_fails_changes_nothing(address: str, execute: Callable[..., int]) -> None:
    at_first_revision(address)
    execute("CREATE TABLE prompt_tags (other INTEGER)")
    before = contents(address)
    with pytest.raises(Exception, match="prompt_tags"):
        PromptTable.open(address)
    assert contents(address) == before
    execute("DROP TABLE prompt_tags")
    check_first(PromptTable.open(address))


def test_a_damaged_text_stops_no_migration(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    at_first_revision(str(path))
    database = sqlite3.connect(path)
    database.executescript(
        "DROP TRIGGER versions_never_change; UPDATE prompts SET text = '---\n[: \n---\n' WHERE name = 'a-b';"
        "CREATE TRIGGER versions_never_change BEFORE UPDATE ON prompts BEGIN SELECT 1; END"
    )
    database.close()
    table = PromptTable.open(path)
    assert table.get("a.b").digest == FIRST[2].digest
    with pytest.raises(Exception, match="'a-b:1' is not what was stored"):
        table.get("a-b")
