"""The first release: prompts and aliases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "prompts",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(4), nullable=False),
        sa.Column("virtual_tokens", sa.Integer, nullable=False),
        sa.Column("tensors", sa.String(64)),
        sa.Column("fingerprint", sa.Text),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("alias", sa.String(50), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["name", "version"], ["prompts.name", "prompts.version"]),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER versions_never_change BEFORE UPDATE ON prompts "
            "BEGIN SELECT RAISE(ABORT, 'a stored version never changes'); END"
        )


def downgrade() -> None:
    op.drop_table("aliases")
    op.drop_table("prompts")  # and with it its trigger
