"""How the table's database is reached: address, transactions, migration, clear errors. Knows SQL; knows no prompts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, column, create_engine, event, inspect, make_url, select, table
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from foreword.errors import ForewordError, UsageError
from foreword.files import data_dir
from foreword.table.migrations import HEAD, VERSION_TABLE, upgrade

BUSY_SECONDS = 30.0
"""How long one process waits for another's write to end."""
PAUSE_SECONDS = 0.05

REMEDIES = {
    "not a database": "that file is no prompt table: name another one",
    "malformed": "the file is damaged: bring it back from a backup",
    "readonly": "make the file and its folder writable, or choose another place with FOREWORD_HOME",
    "unable to open": "name a file in a folder that you can write to, or choose another place with FOREWORD_HOME",
    "no such table": "the file is no prompt table, or not all of one: name another one",
    "disk is full": "free some space and try again; what was stored before is untouched",
    "disk I/O": "check the disk and its free space and try again; what was stored before is untouched",
    "locked": "another process has been writing for long: try again",
}


def locate(place: str | Path | None) -> tuple[URL, Path]:
    """The database's address, and the folder of the tensors that belong to it. Raises UsageError on a bad address."""
    if isinstance(place, str) and "://" in place:
        try:
            url = make_url(place)
        except (ArgumentError, ValueError):  # their words would show the password
            scheme = place.partition("://")[0]
            raise UsageError(
                f"the address {scheme + '://…'!r} is not of the form scheme://user:password@host/database"
            ) from None
        if url.get_backend_name() != "sqlite":
            return url, data_dir() / "tensors"
        if not url.database or url.database == ":memory:":
            raise UsageError(f"{place!r} names no file; a prompt table in SQLite needs one: 'sqlite:///prompts.db'")
        place = url.database
    path = Path(place).expanduser().absolute() if place is not None else data_dir() / "prompts.db"
    return URL.create("sqlite", database=str(path)), path.parent / "tensors"


class Database:
    """A database at the current revision. Holds no connection between calls, so it survives a fork and needs no close.

    In SQLite a write takes the lock when it begins, so that what it reads first is still true when it writes; readers
    never wait for it (WAL).
    """

    def __init__(self, url: URL) -> None:
        self._shown = url.database or "" if _is_sqlite(url) else url.render_as_string(hide_password=True)
        self._sqlite = _is_sqlite(url)
        try:
            if self._sqlite:
                Path(self._shown).parent.mkdir(parents=True, exist_ok=True)
                self._engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
                event.listen(self._engine, "connect", _connected)
                event.listen(self._engine, "begin", _begun)
            else:
                self._engine = create_engine(url, poolclass=NullPool)
        except OSError as error:
            raise ForewordError(
                f"cannot make a folder for {self._shown!r}: {error.strerror}; choose another place with FOREWORD_HOME"
            ) from error
        except (NoSuchModuleError, ImportError) as error:
            raise UsageError(f"no driver for {self._shown!r}: {error}; install it, or use SQLite") from error
        self._prepare()

    @contextmanager
    def session(self, *, write: bool = False) -> Iterator[Session]:
        """One transaction. Raises ForewordError, or IntegrityError where a concurrent write took the same key."""
        engine = self._engine.execution_options(begin="BEGIN IMMEDIATE" if write else "BEGIN")
        with self._clear_errors(), Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            remedy = next((r for part, r in REMEDIES.items() if part in said), "check the address and the server")
            raise ForewordError(f"cannot use the prompt table {self._shown!r}: {said}; {remedy}") from error
        except ValueError as error:  # a date that is none, say
            raise ForewordError(
                f"cannot use the prompt table {self._shown!r}: {error}; {REMEDIES['malformed']}"
            ) from error

    def _prepare(self) -> None:
        with self._clear_errors():
            with self._engine.connect() as connection:
                revision = self._revision(connection)
            if revision != HEAD:
                with self._engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
                    if self._revision(connection) != HEAD:  # else another process was faster
                        self._upgrade(connection)
            if self._sqlite:
                self._use_wal()

    def _revision(self, connection: Connection) -> str | None:
        """None: no table of ours is there yet."""
        tables = inspect(connection)
        if tables.has_table(VERSION_TABLE):
            return connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
        if self._sqlite and tables.get_table_names():
            raise ForewordError(f"{self._shown!r} is the database of another program; name another file")
        return None

    def _upgrade(self, connection: Connection) -> None:
        from alembic.util import CommandError

        try:
            upgrade(connection)
        except CommandError as error:
            raise ForewordError(
                f"the prompt table {self._shown!r} was written by a newer foreword ({error}); upgrade this one"
            ) from error

    def _use_wal(self) -> None:
        """Readers beside a writer. SQLite does not wait for other processes here, so this does."""
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with self._engine.execution_options(begin="").connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                return
            except DBAPIError as error:
                if "locked" not in str(error.orig) or time.monotonic() > end:
                    raise
            time.sleep(PAUSE_SECONDS)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # Python's sqlite3 would begin transactions at the wrong moment; `_begun` does it
    connection.execute("PRAGMA foreign_keys = ON")


def _begun(connection: Connection) -> None:
    if begin := connection.get_execution_options().get("begin", "BEGIN"):
        connection.exec_driver_sql(begin)
