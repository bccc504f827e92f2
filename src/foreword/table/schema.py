"""The two tables of the database. Knows no prompts and no files; `migrations` brings an older database here."""

from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect, ForeignKeyConstraint, String, Text
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


class Base(DeclarativeBase):
    """Whose metadata holds both tables."""


class AliasRow(Base):
    """A movable name for one version of a prompt."""

    __tablename__ = "aliases"
    __table_args__ = (ForeignKeyConstraint(["name", "version"], ["prompts.name", "prompts.version"]),)

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    alias: Mapped[str] = mapped_column(String(50), primary_key=True)
    version: Mapped[int]


class PromptRow(Base):
    """One version of one prompt; written once and never changed."""

    __tablename__ = "prompts"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """1, 2, 3 … for each name."""
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

    aliases: Mapped[list[AliasRow]] = relationship(viewonly=True, lazy="selectin", order_by=AliasRow.alias)
