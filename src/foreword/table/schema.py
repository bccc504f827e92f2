"""The tables of the database. Knows no prompts and no files; `migrations` brings an older database here."""

from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect, ForeignKeyConstraint, Index, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator


class Instant(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone, so it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def word(length: int) -> String:
    """Text that sorts by code point in every database, so that pages and names nearby are the same in all."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


class Base(DeclarativeBase):
    """Whose metadata holds all tables."""


class AliasRow(Base):
    """A movable name for one version of a prompt."""

    __tablename__ = "aliases"
    __table_args__ = (ForeignKeyConstraint(["name", "version"], ["prompts.name", "prompts.version"]),)

    name: Mapped[str] = mapped_column(word(100), primary_key=True)
    alias: Mapped[str] = mapped_column(word(50), primary_key=True)
    version: Mapped[int]


class AliasMoveRow(Base):
    """One move of an alias; written once and never changed."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index("alias_moves_by_name", "name", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    """In the order of the moves."""
    name: Mapped[str] = mapped_column(word(100))
    alias: Mapped[str] = mapped_column(word(50))
    before: Mapped[int | None]
    """The version that it stood for until then."""
    version: Mapped[int | None]
    """None: the alias was removed."""
    author: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(Instant)


class DeletionRow(Base):
    """One deletion or restoration; written once and never changed."""

    __tablename__ = "prompt_deletions"
    __table_args__ = (Index("prompt_deletions_by_name", "name", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(word(100))
    versions: Mapped[str] = mapped_column(Text)
    """A JSON list of numbers."""
    restored: Mapped[bool]
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(Instant)


class TagRow(Base):
    """A word by which prompts are found; it belongs to a name, whatever its version."""

    __tablename__ = "prompt_tags"
    __table_args__ = (Index("prompt_tags_by_tag", "tag", "name"),)

    name: Mapped[str] = mapped_column(word(100), primary_key=True)
    tag: Mapped[str] = mapped_column(word(50), primary_key=True)


class TensorRow(Base):
    """Vectors under the sha256 of their bytes, where the database is a server; beside a file they lie in a folder."""

    __tablename__ = "prompt_tensors"

    digest: Mapped[str] = mapped_column(word(64), primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class PromptRow(Base):
    """One version of one prompt; written once and, but for `deleted`, never changed."""

    __tablename__ = "prompts"

    name: Mapped[str] = mapped_column(word(100), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """1, 2, 3 … for each name; never given twice, whatever is deleted."""
    text: Mapped[str] = mapped_column(Text, deferred=True)
    """The canonical `.prompt` file."""
    digest: Mapped[str] = mapped_column(String(64))
    """sha256 over text and vectors."""
    kind: Mapped[str] = mapped_column(String(4))
    """`hard` or `soft`."""
    virtual_tokens: Mapped[int]
    tensors: Mapped[str | None] = mapped_column(String(64))
    """sha256 of the safetensors file; none for a hard prompt, and for a soft one that waits to be tuned."""
    fingerprint: Mapped[str | None] = mapped_column(Text)
    """Of the backbone that the vectors were learned on."""
    author: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(Instant)
    parent: Mapped[str | None] = mapped_column(Text)
    """`name:version` that it was made from."""
    origin: Mapped[str | None] = mapped_column(Text)
    """How it was made: a JSON object of texts."""
    words: Mapped[str] = mapped_column(Text, deferred=True)
    """What a search looks at: name, description, message and body, without case."""
    deleted: Mapped[datetime | None] = mapped_column(Instant)
    """Since when it is hidden."""

    aliases: Mapped[list[AliasRow]] = relationship(
        viewonly=True, lazy="selectin", order_by=AliasRow.alias, primaryjoin=lambda: AliasRow.name == PromptRow.name,
        foreign_keys=AliasRow.name, uselist=True,
    )  # fmt: skip
    """All of its name, whatever the version."""
    tags: Mapped[list[TagRow]] = relationship(
        viewonly=True, lazy="selectin", order_by=TagRow.tag, primaryjoin=lambda: TagRow.name == PromptRow.name,
        foreign_keys=TagRow.name, uselist=True,
    )  # fmt: skip


LIVE = PromptRow.deleted.is_(None)
Index("prompts_live", PromptRow.name, PromptRow.version, sqlite_where=LIVE, postgresql_where=LIVE)
