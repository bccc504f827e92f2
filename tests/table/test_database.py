"""Opening: what is made where nothing is, and clear words for what is no prompt table."""

import re
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.table import PromptTable
from foreword.table.migrations import VERSION_TABLE


def test_readers_and_a_writer_do_not_wait_for_each_other(tmp_path: Path) -> None:
    PromptTable.open(tmp_path / "prompts.db")
    database = sqlite3.connect(tmp_path / "prompts.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_a_current_table_needs_none_of_alembic(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    PromptTable.open(path).put(Prompt("x", "a"))
    code = (
        f"import sys, foreword.table as t; t.PromptTable.open({str(path)!r}).get('x'); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_table_from_the_future_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    PromptTable.open(path).put(Prompt("x", "a"))
    database = sqlite3.connect(path)
    database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    database.commit()
    database.close()
    with pytest.raises(ForewordError, match=r"prompts\.db' was written by a newer foreword.*9999.*upgrade"):
        PromptTable.open(path)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE bookmarks (url TEXT)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ForewordError, match=r"places\.sqlite' is the database of another program"):
        PromptTable.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Buy milk. " * 1_000)
    with pytest.raises(ForewordError, match=r"notes\.txt': file is not a database; .*name another one"):
        PromptTable.open(path)
    assert path.read_text() == "Buy milk. " * 1_000
    with pytest.raises(ForewordError, match="unable to open"):
        PromptTable.open(tmp_path)
    with pytest.raises(ForewordError, match="cannot make a folder"):
        PromptTable.open(path / "prompts.db")


def test_a_damaged_table_says_so(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    PromptTable.open(path).put(Prompt("x", "a" * 50_000))
    whole = path.read_bytes()
    told: list[str] = []
    for length in range(100, len(whole), 4_000):
        path.write_bytes(whole[:length])
        try:
            body = PromptTable.open(path).get("x").body
        except ForewordError as error:
            told.append(str(error))
        else:
            assert body == "a" * 50_000, "what is missing was not needed"
    assert len(told) > 20
    assert all(re.search(r"prompts\.db|'x:1'", line) for line in told)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("mysql://me:secret@host/db", r"'mysql://…': a prompt table is in SQLite or PostgreSQL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://me:secret@[::1/db", r"'postgresql://…' is not of the form"),
    ],
)
def test_an_address_that_leads_nowhere(address: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        PromptTable.open(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cr3t@localhost:1/prompts",
        "postgres://localhost:1/prompts?user=me&password=s3cr3t",
        "postgresql+psycopg://me:s3cr3t@localhost:1/prompts?sslpassword=s3cr3t",
    ],
)
def test_a_server_that_is_not_there_is_told_without_the_password(address: str) -> None:
    with pytest.raises(ForewordError, match=r"localhost:1/prompts.*check the address and the server") as caught:
        PromptTable.open(address)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install 'foreword\[postgres\]'"):
        PromptTable.open("postgresql://me:s3cr3t@localhost/prompts")


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_password_is_stored_nowhere(address: str, execute: Callable[..., int]) -> None:
    """Whatever a user writes beside a version, the URL of a database in it keeps its password out of the table."""
    url = "postgresql://me:s3cr3t@host/db"
    table = PromptTable.open(address)
    table.put(Prompt("x", "a"), alias="prod", message=f"from {url}", origin={"table": url})
    table.put(Prompt("x", "b"), alias="prod", message="key: https://host/v1?api_key=s3cr3t&x=1")
    for name in ("prompts", "alias_moves"):
        assert execute(f"SELECT 1 FROM {name} AS t WHERE t::text LIKE '%s3cr3t%'") == 0
    assert table.log("x")[0].message == "key: https://host/v1?api_key=•••&x=1"
