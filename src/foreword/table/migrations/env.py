"""Run by Alembic for every command; the connection and its transaction are the caller's."""

from alembic import context

from foreword.table.migrations import VERSION_TABLE
from foreword.table.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
