"""What the table writes, each within a transaction that has the name to itself, and what it notes beside it: who, why,
and how a version was made; never a password. Knows rows; knows no prompts.
"""

import getpass
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session, lazyload

from foreword.errors import UsageError
from foreword.redact import redact
from foreword.table.queries import find, near_names, newest, no_alias, suggestion
from foreword.table.refs import Ref
from foreword.table.schema import LIVE, AliasMoveRow, AliasRow, DeletionRow, PromptRow, TagRow

MAX_ORIGIN = 10_000
"""Characters of an origin as JSON."""


def hold(session: Session, name: str) -> None:
    """Until this transaction ends, no other writes under `name`, once it has a version. In SQLite none writes anyway.

    The first version stands for the name: it is there as long as the name is.
    """
    first = select(PromptRow.version).where(PromptRow.name == name).order_by(PromptRow.version).limit(1)
    session.execute(first.with_for_update(key_share=True))


def add_version(session: Session, row: PromptRow) -> PromptRow:
    """Gives `row` its version, unless the newest is equal: then that one is returned, and `row` is dropped."""
    every = select(PromptRow).where(PromptRow.name == row.name).order_by(PromptRow.version.desc()).limit(1)
    last = session.scalar(every.options(lazyload("*")))
    there = last if last is None or last.deleted is None else session.scalar(newest(row.name).options(lazyload("*")))
    if there is not None and there.digest == row.digest:
        return there
    row.version = last.version + 1 if last is not None else 1
    if row.parent is None and there is not None:
        row.parent = f"{row.name}:{there.version}"
    session.add(row)
    session.flush()
    return row


def move_alias(session: Session, name: str, alias: str, version: int, message: str) -> bool:
    """Makes the alias mean `version`, and writes down the move; whether it is one."""
    row = session.get(AliasRow, (name, alias))
    before = row.version if row is not None else None
    if before == version:
        return False
    if row is not None:
        row.version = version
    else:
        session.add(AliasRow(name=name, alias=alias, version=version))
    _note_move(session, name, alias, before, version, message)
    return True


def remove_alias(session: Session, name: str, alias: str, message: str) -> int:
    """Gives the version that it stood for. Raises UsageError with near matches where there is no such alias."""
    row = session.get(AliasRow, (name, alias))
    if row is None:
        there = session.scalars(select(AliasRow.alias).where(AliasRow.name == name).order_by(AliasRow.alias))
        raise no_alias(name, alias, there.all())
    session.delete(row)
    _note_move(session, name, alias, row.version, None, message)
    return row.version


def _note_move(session: Session, name: str, alias: str, before: int | None, version: int | None, message: str) -> None:
    now, by = datetime.now(UTC), author()
    session.add(
        AliasMoveRow(
            name=name, alias=alias, before=before, version=version, author=by, message=note(message), created=now
        )
    )
    session.flush()


def add_tags(session: Session, name: str, tags: Iterable[str]) -> None:
    for tag in sorted(set(tags)):
        session.merge(TagRow(name=name, tag=tag))
    session.flush()


def take_tags(session: Session, name: str, tags: Iterable[str]) -> None:
    """Raises UsageError when one of them is not there."""
    there = tags_of(session, name)
    for tag in tags:
        if tag not in there:
            raise UsageError(f"{name!r} has no tag {tag!r}; {suggestion(tag, there, 'its tags')}")
    session.execute(delete(TagRow).where(TagRow.name == name, TagRow.tag.in_(list(tags))))


def tags_of(session: Session, name: str) -> list[str]:
    return list(session.scalars(select(TagRow.tag).where(TagRow.name == name).order_by(TagRow.tag)))


def hide(session: Session, ref: Ref) -> list[str]:
    """Deletes one version, or all of a name; returns which. Raises UsageError when an alias needs that one version."""
    row = find(session, ref)
    these = PromptRow.name == ref.name
    if ref.version is not None:
        if names := ", ".join(alias.alias for alias in row.aliases if alias.version == row.version):
            raise UsageError(
                f"'{ref.name}:{ref.version}' is what {names} means; point the alias elsewhere first, or remove it"
            )
        these &= PromptRow.version == ref.version
    return _mark(session, ref.name, these & LIVE, datetime.now(UTC))


def unhide(session: Session, ref: Ref) -> list[str]:
    """Takes back the deletion of one version, or the last deletion of a name; returns what is there again."""
    these = PromptRow.name == ref.name
    if ref.version is not None:
        these &= PromptRow.version == ref.version
    last = session.scalar(select(func.max(PromptRow.deleted)).where(these))
    if last is None:
        if session.scalar(newest(ref.name)) is None:
            near = near_names(session, ref.name, PromptRow.deleted.is_not(None), "deleted prompts")
            raise UsageError(f"there is no deleted prompt {ref.name!r}; {near}")
        there = find(session, ref)
        raise UsageError(f"'{ref.name}:{there.version}' is there: nothing is to be restored")
    return _mark(session, ref.name, these & (PromptRow.deleted == last), None)


def _mark(session: Session, name: str, these: ColumnElement[bool], deleted: datetime | None) -> list[str]:
    found = session.scalars(select(PromptRow.version).where(these).order_by(PromptRow.version)).all()
    session.execute(update(PromptRow).where(these).values(deleted=deleted))
    versions, now = json.dumps([*found]), deleted or datetime.now(UTC)
    session.add(DeletionRow(name=name, versions=versions, restored=deleted is None, author=author(), created=now))
    session.flush()
    return [f"{name}:{version}" for version in found]


def author() -> str:
    """The user's name on this machine."""
    try:
        return plain(getpass.getuser())
    except (OSError, KeyError, ImportError):  # a container's user id often has no name
        return "unknown"


def plain(text: str) -> str:
    """Without what no database takes: zero bytes, and halves of characters from a shell with another encoding."""
    return text.replace("\0", "").encode(errors="replace").decode()


def note(text: str) -> str:
    """A plain text without the passwords and keys in it, for all who share the table read it."""
    return redact(plain(text))


def origin_text(origin: Mapping[str, str]) -> str:
    """`origin` as JSON. Raises UsageError when it is no mapping of texts to texts, or too long."""
    for key, value in origin.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise UsageError(f"origin {key!r}: {value!r:.80} is not text; write it as text")
    text = json.dumps({note(key): note(value) for key, value in origin.items()}, ensure_ascii=False)
    if len(text) > MAX_ORIGIN:
        raise UsageError(f"the origin has {len(text):,} characters, {MAX_ORIGIN:,} at most; keep long texts elsewhere")
    return text
