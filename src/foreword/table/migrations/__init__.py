"""How an older database becomes a current one: Alembic's revisions, run from here and not from a command line."""

import threading

from sqlalchemy import Connection

HEAD = "0001"
"""The newest revision in `versions`, known here so that a current database needs none of Alembic's machinery."""
VERSION_TABLE = "foreword_version"
"""Not Alembic's default, so that a shared database may hold other programs' tables too."""

_alembic = threading.Lock()  # it keeps the migration that runs in module globals


def upgrade(connection: Connection) -> None:
    """Runs what is missing, in the caller's transaction. Raises alembic.util.CommandError on an unknown revision."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "foreword.table:migrations")
    config.set_main_option("path_separator", "os")
    with _alembic:
        command.upgrade(config, "head")
