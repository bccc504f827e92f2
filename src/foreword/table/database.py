"""How the table's database is reached: address, transactions, migration, clear errors. Knows SQL; knows no prompts."""

import sqlite3
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, column, create_engine, event, func, inspect, make_url, select, table
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from foreword.errors import ForewordError, UsageError
from foreword.files import data_dir
from foreword.table.migrations import HEAD, VERSION_TABLE, upgrade
from foreword.table.watch import ClockWatch, FileWatch, Watch

BUSY_SECONDS = 30.0
"""How long one process waits for another's write to end."""
FILE_ARGUMENTS = {"timeout": BUSY_SECONDS, "check_same_thread": False}  # one is kept, behind a lock
PAUSE_SECONDS = 0.05
MIGRATION_LOCK = 0x464F5245574F5244
"""What a server knows the migration of prompt tables by: one at a time."""
SECRETS = {"password", "passfile", "sslpassword", "sslkey", "oauth_client_secret"}
"""Parts of an address that are not shown."""

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
        backend = url.drivername.partition("+")[0]
        if backend in ("postgresql", "postgres"):
            return url.set(drivername="postgresql+psycopg"), data_dir() / "tensors"
        if backend != "sqlite":
            raise UsageError(f"{backend + '://…'!r}: a prompt table is in SQLite or PostgreSQL: 'postgresql://…'")
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
        self.is_file = url.get_backend_name() == "sqlite"
        self._shown = url.database or "" if self.is_file else _shown(url)
        self._password = url.password or url.query.get("password")
        try:
            if self.is_file:
                Path(self._shown).parent.mkdir(parents=True, exist_ok=True)
                self._engine = create_engine(url, poolclass=NullPool, connect_args=FILE_ARGUMENTS)
                event.listen(self._engine, "connect", _connected)
                event.listen(self._engine, "begin", _begun)
            else:
                self._engine = create_engine(url, poolclass=NullPool)
        except OSError as error:
            raise ForewordError(
                f"cannot make a folder for {self._shown!r}: {error.strerror}; choose another place with FOREWORD_HOME"
            ) from error
        except ImportError as error:
            raise UsageError(
                f"no driver for {self._shown!r}: {error}; pip install 'foreword[postgres]', or use SQLite"
            ) from error
        self._watch: Watch = FileWatch(self._shown, partial(_bare, self._engine)) if self.is_file else ClockWatch()
        self._prepare()

    def stamp(self) -> Hashable | None:
        """Equal to an earlier one as long as what was read since then is current: in SQLite until anybody writes, on a
        server for `watch.LIFETIME` seconds or until one writes through this object. None: it cannot be told.
        """
        return self._watch.stamp()

    @contextmanager
    def session(self, *, write: bool = False) -> Iterator[Session]:
        """One transaction. Raises ForewordError, or IntegrityError where a concurrent write took the same key."""
        engine = self._engine.execution_options(begin="BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            with self._clear_errors(), Session(engine) as session, session.begin():
                yield session
        finally:
            if write:
                self._watch.wrote()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            if self._password:
                said = said.replace(str(self._password), "***")
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
                    if not self.is_file:
                        connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                    if self._revision(connection) != HEAD:  # else another process was faster
                        self._upgrade(connection)
            if self.is_file:
                self._use_wal()

    def _revision(self, connection: Connection) -> str | None:
        """None: no table of ours is there yet."""
        tables = inspect(connection)
        if tables.has_table(VERSION_TABLE):
            return connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
        if self.is_file and tables.get_table_names():
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


def _bare(engine: Engine) -> sqlite3.Connection:
    """A connection that is the caller's, to keep and to close."""
    connection = engine.raw_connection()
    bare = cast(sqlite3.Connection, connection.driver_connection)
    connection.detach()
    return bare


def _shown(url: URL) -> str:
    secret = [key for key in url.query if key.lower() in SECRETS]
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def _connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # Python's sqlite3 would begin transactions at the wrong moment; `_begun` does it
    connection.execute("PRAGMA foreign_keys = ON")


def _begun(connection: Connection) -> None:
    if begin := connection.get_execution_options().get("begin", "BEGIN"):
        connection.exec_driver_sql(begin)
