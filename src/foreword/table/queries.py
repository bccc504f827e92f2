"""The questions that the table asks its database, and what it answers when there is no such prompt. Writes nothing."""

import difflib
from collections.abc import Sequence
from typing import cast

from sqlalchemy import ColumnElement, Select, func, select, tuple_
from sqlalchemy.orm import Session
from sqlalchemy.orm.interfaces import ORMOption

from foreword.errors import UsageError
from foreword.table.refs import Ref
from foreword.table.schema import LIVE, AliasMoveRow, AliasRow, DeletionRow, PromptRow, TagRow
from foreword.table.stored import Current

NEAR = 500
"""Names on either side of a wrong one, in the order of the alphabet, among which a right one is looked for."""


def newest(name: str, *, deleted: bool = False) -> Select[PromptRow]:
    """The newest version; that is not deleted, unless those count too."""
    query = select(PromptRow).where(PromptRow.name == name).order_by(PromptRow.version.desc()).limit(1)
    return query if deleted else query.where(LIVE)


def find(session: Session, ref: Ref, *options: ORMOption, deleted: bool = False) -> PromptRow:
    """The version that `ref` stands for. Raises UsageError with near matches when there is none."""
    query = newest(ref.name, deleted=deleted and ref.version is not None).options(*options)
    if ref.version is not None:
        query = query.where(PromptRow.version == ref.version)
    if ref.alias is not None:
        means = (AliasRow.name == PromptRow.name) & (AliasRow.version == PromptRow.version)
        query = query.join(AliasRow, means).where(AliasRow.alias == ref.alias)
    if (row := session.scalar(query)) is not None:
        return row
    raise missing(session, ref)


def parent(session: Session, ref: Ref) -> str:
    """`name:version` of what a prompt was made from; it may be deleted by now. Raises UsageError as `find` does."""
    if ref.version is None or session.get(PromptRow, (ref.name, ref.version)) is None:
        ref = Ref(ref.name, version=find(session, ref).version)
    return f"{ref.name}:{ref.version}"


def newest_of_each(
    tag: str | None, after: str | None, limit: int | None, words: str | None = None
) -> Select[PromptRow]:
    """The newest version of every name, by name, beginning behind `after`; with `words`, the newest that has them."""
    chosen = select(PromptRow.name, func.max(PromptRow.version).label("version")).where(LIVE)
    if words is not None:
        chosen = chosen.where(PromptRow.words.contains(words, autoescape=True))
    if after is not None:
        chosen = chosen.where(PromptRow.name > after)
    if tag is not None:
        chosen = chosen.where(PromptRow.name.in_(select(TagRow.name).where(TagRow.tag == tag)))
    page = chosen.group_by(PromptRow.name).order_by(PromptRow.name).limit(limit).subquery()
    here = (PromptRow.name == page.c.name) & (PromptRow.version == page.c.version)
    return select(PromptRow).join(page, here).order_by(PromptRow.name)


def versions_of(name: str, before: int | None, limit: int | None, *, deleted: bool = False) -> Select[PromptRow]:
    """Newest first, beginning behind version `before`; with `deleted`, those that are deleted too."""
    query = select(PromptRow).where(PromptRow.name == name).order_by(PromptRow.version.desc()).limit(limit)
    query = query if deleted else query.where(LIVE)
    return query if before is None else query.where(PromptRow.version < before)


def moves_of(name: str, alias: str | None, limit: int | None) -> Select[AliasMoveRow]:
    """Newest first; of all aliases, or of one."""
    query = select(AliasMoveRow).where(AliasMoveRow.name == name).order_by(AliasMoveRow.id.desc()).limit(limit)
    return query if alias is None else query.where(AliasMoveRow.alias == alias)


def deletions_of(name: str, limit: int | None) -> Select[DeletionRow]:
    """Newest first."""
    return select(DeletionRow).where(DeletionRow.name == name).order_by(DeletionRow.id.desc()).limit(limit)


def current(session: Session) -> list[Current]:
    """What every name and every alias stands for now, by name and version: three queries however many there are."""
    newest = select(PromptRow.name, func.max(PromptRow.version)).where(LIVE).group_by(PromptRow.name)
    latest = {(name, version) for name, version in session.execute(newest)}
    aliases: dict[tuple[str, int], list[str]] = {}
    for alias in session.scalars(select(AliasRow).order_by(AliasRow.alias)):
        aliases.setdefault((alias.name, alias.version), []).append(alias.alias)
    place = tuple_(PromptRow.name, PromptRow.version)
    named = place.in_(newest) | place.in_(select(AliasRow.name, AliasRow.version))
    columns = (PromptRow.name, PromptRow.version, PromptRow.digest, PromptRow.virtual_tokens, PromptRow.fingerprint)
    return [
        Current(*row, (row.name, row.version) in latest, tuple(aliases.get((row.name, row.version), ())))
        for row in session.execute(select(*columns).where(named, LIVE).order_by(PromptRow.name, PromptRow.version))
    ]


def all_tags() -> Select[str]:
    """Those of prompts that are there, in order."""
    return select(TagRow.tag).where(TagRow.name.in_(select(PromptRow.name).where(LIVE))).distinct().order_by(TagRow.tag)


def missing(session: Session, ref: Ref) -> UsageError:
    """The error that says what there is instead of `ref`."""
    there = session.scalar(newest(ref.name))
    if there is None:
        if session.scalar(select(PromptRow.version).where(PromptRow.name == ref.name).limit(1)):
            return UsageError(f"{ref.name!r} is deleted; {_undo(ref.name)}")
        near = near_names(session, ref.name, LIVE, "stored prompts")
        return UsageError(f"there is no prompt {ref.name!r}; {near}")
    if ref.version is not None:
        this = f"{ref.name}:{ref.version}"
        if session.scalar(select(PromptRow.name).where(PromptRow.name == ref.name, PromptRow.version == ref.version)):
            return UsageError(f"{this!r} is deleted; {_undo(this)}")
        return UsageError(f"{ref.name!r} has no version {ref.version}; there are 1 to {there.version}")
    alias = cast(str, ref.alias)
    aliases = select(AliasRow).where(AliasRow.name == ref.name).order_by(AliasRow.alias).limit(NEAR)
    for row in session.scalars(aliases):
        if row.alias == alias:
            this = f"{ref.name}:{row.version}"
            return UsageError(
                f"'{ref.name}@{alias}' means {this!r}, which is deleted; move the alias, or {_undo(this)}"
            )
    return no_alias(ref.name, alias, [row.alias for row in session.scalars(aliases)])


def no_alias(name: str, alias: str, there: Sequence[str]) -> UsageError:
    return UsageError(f"{name!r} has no alias {alias!r}; {suggestion(alias, there, 'its aliases')}")


def near_names(session: Session, name: str, among: ColumnElement[bool], what: str) -> str:
    """The names most like `name`, and some others, of the versions for which `among` holds."""
    names = select(PromptRow.name).where(among).distinct().limit(NEAR)
    before = session.scalars(names.where(PromptRow.name < name).order_by(PromptRow.name.desc())).all()
    behind = session.scalars(names.where(PromptRow.name > name).order_by(PromptRow.name)).all()
    return suggestion(name, [*reversed(before), *behind], what)


def suggestion(wanted: str, there: Sequence[str], what: str) -> str:
    """Which of `there` may have been meant, and some of what there is."""
    if not there:
        return f"{what}: none yet"
    near = difflib.get_close_matches(wanted, there, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    more = " and more" if len(there) > 10 else ""
    return f"{hint}{what}: {', '.join(there[:10])}{more}"


def _undo(ref: str) -> str:
    return f"'foreword prompts restore {ref}' brings it back"
