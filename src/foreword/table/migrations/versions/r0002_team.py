"""For a team: parents and origins, tags, search, soft deletion, moves of aliases and deletions, vectors on a server."""

import sqlalchemy as sa
import yaml
from alembic import op

revision = "0002"
down_revision = "0001"

FIRST = "name, version, text, digest, kind, virtual_tokens, tensors, fingerprint, author, message, created"
UNCHANGING = f"{FIRST}, parent, origin, words"
NAMES = (("prompts", "name", 100), ("aliases", "name", 100), ("aliases", "alias", 50))


def upgrade() -> None:
    server = op.get_bind().dialect.name == "postgresql"
    if not server:
        op.execute("DROP TRIGGER versions_never_change")
    for table, column, length in NAMES if server else ():  # in SQLite they sort by code point anyway
        op.alter_column(table, column, type_=sa.String(length, collation="C"))
    op.add_column("prompts", sa.Column("parent", sa.Text))
    op.add_column("prompts", sa.Column("origin", sa.Text))
    op.add_column("prompts", sa.Column("words", sa.Text, nullable=False, server_default=""))
    op.add_column("prompts", sa.Column("deleted", sa.DateTime(timezone=True)))
    _fill()
    live = sa.text("deleted IS NULL")
    op.create_index("prompts_live", "prompts", ["name", "version"], sqlite_where=live, postgresql_where=live)
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", _word(100), nullable=False),
        sa.Column("alias", _word(50), nullable=False),
        sa.Column("before", sa.Integer),
        sa.Column("version", sa.Integer),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("alias_moves_by_name", "alias_moves", ["name", "id"])
    op.create_table(
        "prompt_deletions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", _word(100), nullable=False),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("restored", sa.Boolean, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("prompt_deletions_by_name", "prompt_deletions", ["name", "id"])
    op.create_table(
        "prompt_tags",
        sa.Column("name", _word(100), primary_key=True),
        sa.Column("tag", _word(50), primary_key=True),
    )
    op.create_index("prompt_tags_by_tag", "prompt_tags", ["tag", "name"])
    op.create_table(
        "prompt_tensors",
        sa.Column("digest", _word(64), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    if server:
        op.execute(
            "CREATE FUNCTION versions_never_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'a stored version never changes'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER versions_never_change BEFORE UPDATE OF {UNCHANGING} ON prompts "
            "FOR EACH ROW EXECUTE FUNCTION versions_never_change()"
        )
    else:
        op.execute(
            f"CREATE TRIGGER versions_never_change BEFORE UPDATE OF {UNCHANGING} ON prompts "
            "BEGIN SELECT RAISE(ABORT, 'a stored version never changes'); END"
        )


def downgrade() -> None:
    """What was deleted is there again, because the revision before cannot hide it."""
    server = op.get_bind().dialect.name == "postgresql"
    op.execute("DROP TRIGGER versions_never_change" + (" ON prompts" if server else ""))
    if server:
        op.execute("DROP FUNCTION versions_never_change")
        _write_tensors()
    for table in ("prompt_tensors", "prompt_tags", "prompt_deletions", "alias_moves"):
        op.drop_table(table)
    op.drop_index("prompts_live", "prompts")
    for column in ("deleted", "words", "origin", "parent"):
        op.drop_column("prompts", column)
    if server:
        for table, column, length in NAMES:
            op.alter_column(table, column, type_=sa.String(length, collation="default"))
    else:
        op.execute(
            "CREATE TRIGGER versions_never_change BEFORE UPDATE ON prompts "
            "BEGIN SELECT RAISE(ABORT, 'a stored version never changes'); END"
        )


def _word(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _fill() -> None:
    """The versions that are there get what they would have had: the one before as parent, and words to be found by."""
    prompts = sa.table("prompts", *map(sa.column, ("name", "version", "text", "message", "parent", "words")))
    bind = op.get_bind()
    there = bind.execute(sa.select(prompts.c.name, prompts.c.version)).all()
    for name, version in there:
        this = (prompts.c.name == name) & (prompts.c.version == version)
        text, message = bind.execute(sa.select(prompts.c.text, prompts.c.message).where(this)).one()
        head, _, body = text.removeprefix("---\n").partition("\n---\n")
        words = "\n".join((name, _description(head), message, body)).casefold().replace("\0", "")
        parent = f"{name}:{version - 1}" if version > 1 else None
        bind.execute(prompts.update().where(this).values(parent=parent, words=words))


def _description(head: str) -> str:
    try:
        return str(yaml.safe_load(head).get("description", ""))
    except (yaml.YAMLError, AttributeError):  # a damaged text is told when it is read, and must not stop all others
        return ""


def _write_tensors() -> None:
    """The revision before looks for vectors in the folder of whoever reads."""
    from foreword.files import data_dir, write_atomic

    tensors = sa.table("prompt_tensors", sa.column("digest"), sa.column("data"))
    bind = op.get_bind()
    for digest in bind.scalars(sa.select(tensors.c.digest)).all():
        [data] = bind.scalars(sa.select(tensors.c.data).where(tensors.c.digest == digest))
        write_atomic(data_dir() / "tensors" / f"{digest}.safetensors", bytes(data))
