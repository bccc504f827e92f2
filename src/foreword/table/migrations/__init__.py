"""How an older database becomes a current one, or the other way: Alembic's revisions, run from here and not from a
command line.
"""

import threading
from typing import TYPE_CHECKING

from sqlalchemy import Connection

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
"""The newest revision in `versions`, known here so that a current database needs none of Alembic's machinery."""
VERSION_TABLE = "foreword_version"
"""Not Alembic's default, so that a shared database may hold other programs' tables too."""

_alembic = threading.Lock()  # it keeps the migration that runs in module globals


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Runs what is missing, in the caller's transaction. Raises alembic.util.CommandError on an unknown revision."""
    from alembic import command

    with _alembic:
        command.upgrade(_config(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Takes back what is newer than `revision`, in the caller's transaction, for an older foreword to read; `base`
    takes back everything. What the older revision has no place for is lost.
    """
    from alembic import command

    with _alembic:
        command.downgrade(_config(connection), revision)


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "foreword.table:migrations")
    config.set_main_option("path_separator", "os")
    return config
