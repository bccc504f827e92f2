"""The prompt table: versions that never change, under names and movable aliases. Knows no models and no tuning."""

import builtins
import difflib
import getpass
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from foreword.errors import ForewordError, UsageError
from foreword.prompts.file import from_text
from foreword.prompts.prompt import Prompt
from foreword.prompts.soft import SoftTokens
from foreword.table.database import Database, locate
from foreword.table.heads import Head, heads
from foreword.table.refs import Ref, check_alias, parse
from foreword.table.schema import AliasRow, PromptRow
from foreword.table.tensors import TensorFolder

ATTEMPTS = 20
"""How often a version number is tried when other writers keep taking it."""


@dataclass(frozen=True)
class Stored:
    """What the table knows of one version."""

    name: str
    version: int
    kind: Literal["hard", "soft"]
    """`soft`: with virtual tokens, tuned or not."""
    digest: str
    """Of the prompt: two versions hold the same when it is equal."""
    aliases: tuple[str, ...]
    """Those that point at this version now."""
    created: datetime
    """UTC."""
    message: str
    author: str
    virtual_tokens: int

    @property
    def ref(self) -> str:
        """What `get` takes: `name:3`."""
        return f"{self.name}:{self.version}"


class PromptTable:
    """Safe for many threads and processes at once: nothing that `put` has returned is ever lost or changed."""

    def __init__(self, database: Database, tensors: TensorFolder) -> None:
        self._database = database
        self._tensors = tensors

    @classmethod
    def open(cls, url: str | Path | None = None) -> "PromptTable":
        """The table in a SQLite file or at a database URL; made, and brought to the current revision, where needed.

        Without `url` it is the user's own, in `data_dir()`. Vectors lie in `tensors/` beside the file. Raises
        ForewordError when it is no prompt table, cannot be written, or was written by a newer foreword.
        """
        address, folder = locate(url)
        return cls(Database(address), TensorFolder(folder))

    def put(self, prompt: Prompt, alias: str | None = None, message: str = "") -> Stored:
        """Stores the next version of `prompt.name` and moves `alias` to it.

        What equals the newest version of that name is not stored twice: then that version is returned.
        """
        if alias is not None:
            check_alias(alias)
        text = prompt.to_text()
        if from_text(text, prompt.name, soft=prompt.soft).digest != prompt.digest:
            raise ForewordError(f"prompt {prompt.name!r} does not survive being written and read; report this as a bug")
        tensors = self._tensors.put(prompt.soft.to_bytes()) if prompt.soft is not None else None
        for _ in range(ATTEMPTS):
            row = PromptRow(
                name=prompt.name,
                text=text,
                digest=prompt.digest,
                kind="soft" if prompt.virtual_tokens else "hard",
                virtual_tokens=prompt.virtual_tokens,
                tensors=tensors,
                fingerprint=prompt.soft.fingerprint if prompt.soft is not None else None,
                author=_plain(_author()),
                message=_plain(message),
                created=datetime.now(UTC),
            )
            try:
                with self._database.session(write=True) as session:
                    return _store(session, row, alias)
            except IntegrityError:  # two writers read the same newest version; SQLite's lock rules that out
                continue
        raise ForewordError(f"other writers kept taking the next version of {prompt.name!r}; try again")

    def get(self, ref: str) -> Prompt:
        """The prompt that `name` (newest), `name@alias` or `name:3` stands for.

        Raises UsageError with near matches when there is none, ForewordError when its vectors are missing or altered.
        """
        with self._database.session() as session:
            row = _find(session, parse(ref))
            name = f"{row.name}:{row.version}"
            text, tensors, digest = row.text, row.tensors, row.digest
        if hashlib.sha256(f"{text}\n{tensors or ''}".encode()).hexdigest() != digest:  # as in Prompt.digest
            raise ForewordError(f"the text of {name!r} is not what was stored: bring the table back from a backup")
        soft = SoftTokens.from_bytes(self._tensors.get(tensors, name), name) if tensors is not None else None
        return from_text(text, name, soft=soft)

    def alias(self, name: str, alias: str, version: int) -> None:
        """Makes `name@alias` mean this version from now on. Raises UsageError where there is no such version."""
        ref = parse(f"{name}:{version}")
        check_alias(alias)
        with self._database.session(write=True) as session:
            _find(session, ref)
            session.merge(AliasRow(name=name, alias=alias, version=version))

    def list(self, name: str | None = None) -> builtins.list[Stored]:
        """The newest version of every name, by name; or all versions of one, newest first."""
        with self._database.session() as session:
            if name is not None:
                _find(session, Ref(name))
                query = select(PromptRow).where(PromptRow.name == name).order_by(PromptRow.version.desc())
            else:
                newest = select(PromptRow.name, func.max(PromptRow.version)).group_by(PromptRow.name)
                query = select(PromptRow).where(tuple_(PromptRow.name, PromptRow.version).in_(newest))
                query = query.order_by(PromptRow.name)
            return [_stored(row) for row in session.scalars(query)]

    def heads(self) -> builtins.list[Head]:
        """The versions that names and aliases stand for now; cheap enough to be asked every second."""
        with self._database.session() as session:
            return heads(session)


def _store(session: Session, row: PromptRow, alias: str | None) -> Stored:
    """`row` lacks its version yet, and is dropped where it equals the newest one."""
    newest = session.scalar(_newest(row.name))
    if newest is not None and newest.digest == row.digest:
        row = newest
    else:
        row.version = newest.version + 1 if newest is not None else 1
        session.add(row)
        session.flush()
    if alias is not None:
        session.merge(AliasRow(name=row.name, alias=alias, version=row.version))
        session.flush()
    session.refresh(row, ["aliases"])
    return _stored(row)


def _newest(name: str) -> Select[PromptRow]:
    return select(PromptRow).where(PromptRow.name == name).order_by(PromptRow.version.desc()).limit(1)


def _stored(row: PromptRow) -> Stored:
    return Stored(
        name=row.name,
        version=row.version,
        kind=cast(Literal["hard", "soft"], row.kind),
        digest=row.digest,
        aliases=tuple(alias.alias for alias in row.aliases),
        created=row.created,
        message=row.message,
        author=row.author,
        virtual_tokens=row.virtual_tokens,
    )


def _find(session: Session, ref: Ref) -> PromptRow:
    query = _newest(ref.name)
    if ref.version is not None:
        query = query.where(PromptRow.version == ref.version)
    if ref.alias is not None:
        query = query.join(PromptRow.aliases).where(AliasRow.alias == ref.alias)
    if (row := session.scalar(query)) is not None:
        return row
    if (newest := session.scalar(_newest(ref.name))) is None:
        names = session.scalars(select(PromptRow.name).distinct().order_by(PromptRow.name)).all()
        raise UsageError(f"there is no prompt {ref.name!r}; {_instead(ref.name, names, 'stored prompts')}")
    if ref.version is not None:
        raise UsageError(f"{ref.name!r} has no version {ref.version}; there are 1 to {newest.version}")
    alias = cast(str, ref.alias)
    aliases = session.scalars(select(AliasRow.alias).where(AliasRow.name == ref.name).order_by(AliasRow.alias)).all()
    raise UsageError(f"{ref.name!r} has no alias {alias!r}; {_instead(alias, aliases, 'its aliases')}")


def _instead(wanted: str, there: Sequence[str], what: str) -> str:
    if not there:
        return f"{what}: none yet"
    near = difflib.get_close_matches(wanted, there, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    more = f" and {len(there) - 10:,} more" if len(there) > 10 else ""
    return f"{hint}{what}: {', '.join(there[:10])}{more}"


def _author() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user id often has no name
        return "unknown"


def _plain(text: str) -> str:
    """Without what no database takes: zero bytes, and halves of characters from a shell with another encoding."""
    return text.replace("\0", "").encode(errors="replace").decode()
