"""The prompt table: versions that never change, under names and movable aliases. Knows no models and no tuning."""

import builtins
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, lazyload, undefer

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt, SoftTokens
from foreword.table import queries, writes
from foreword.table.database import Database, locate
from foreword.table.includes import Partials, pinned, resolve_pinned
from foreword.table.recent import Recent
from foreword.table.refs import Ref, check_alias, check_tag, parse_ref
from foreword.table.schema import LIVE, AliasRow, PromptRow
from foreword.table.stored import AliasMove, Current, Deletion, Stored, deletion, move, stored
from foreword.table.tensors import TensorFolder, TensorRows, Tensors
from foreword.table.writes import author, note, origin_text, plain

ATTEMPTS = 20
"""How often a version number is tried when other writers keep taking it."""
MAX_SEARCH = 1_000
"""Characters of a text to search for."""


class PromptTable:
    """Safe for many threads and processes at once: nothing that `put` has returned is ever lost or changed."""

    def __init__(self, database: Database, tensors: Tensors) -> None:
        self._database = database
        self._tensors = tensors
        self._recent = Recent()

    @classmethod
    def open(cls, url: str | Path | None = None) -> "PromptTable":
        """The table in a SQLite file or at a PostgreSQL URL; made, and brought to the current revision, where needed.

        Without `url` it is the user's own, in `data_dir()`. Vectors lie in `tensors/` beside the file; those of a
        server are in its database, for all who have the URL. Raises ForewordError when it is no prompt table, cannot
        be written, or was written by a newer foreword.
        """
        address, folder = locate(url)
        database, tensors = Database(address), TensorFolder(folder)
        return cls(database, tensors if database.is_file else TensorRows(database, tensors))

    def put(
        self,
        prompt: Prompt,
        alias: str | None = None,
        message: str = "",
        parent: str | None = None,
        origin: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
    ) -> Stored:
        """Stores the next version of `prompt.name`, moves `alias` to it, and adds `tags` to the prompt.

        `parent` is the stored prompt that it was made from, as `get` takes it, or a version deleted by now; by default
        the newest version of its own name. `origin` says how it was made. What equals the newest version of that name
        is not stored twice: then that version is returned, as it was, but for alias and tags. Raises UsageError when
        there is no such parent.
        """
        tags = [check_tag(tag) for tag in tags]
        if alias is not None:
            check_alias(alias)
        made_from = parse_ref(parent) if parent is not None else None
        prompt, how = pinned(prompt, self.version_of), origin_text(origin) if origin else None
        text = prompt.to_text()
        if (
            Prompt.from_text(text, prompt.name, soft=prompt.soft, resolve=resolve_pinned(prompt)).digest
            != prompt.digest
        ):
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
                author=author(),
                message=note(message),
                created=datetime.now(UTC),
                origin=how,
                words=_words(prompt.name, prompt.description, note(message), prompt.body),
            )
            try:
                with self._database.session(write=True) as session:
                    writes.hold(session, row.name)
                    if made_from is not None:
                        row.parent = queries.parent(session, made_from)
                    made, row = row, writes.add_version(session, row)
                    moved = alias is not None and writes.move_alias(session, row.name, alias, row.version, message)
                    writes.add_tags(session, row.name, tags)
                    session.refresh(row, ["aliases", "tags"])
                    return stored(row, new=row is made, moved=moved)
            except IntegrityError:  # two writers began the same name; SQLite's lock rules that out
                continue
        raise ForewordError(f"other writers kept taking the next version of {prompt.name!r}; try again")

    def get(self, ref: str) -> Prompt:
        """The prompt that `name` (newest), `name@alias` or `name:3` stands for.

        Asked again it comes from this process's memory, the same object for all who ask, as long as nobody has written
        to the table; on a server, for a second (`watch.LIFETIME`) or until one writes through this object.
        Raises UsageError with near matches when there is none, ForewordError when its vectors are missing or altered.
        """
        wanted, stamp = parse_ref(ref), self._database.stamp()
        if (held := self._recent.get(wanted, stamp)) is not None:
            return held
        return Partials(self._load)(ref)

    def _load(self, ref: str, partials: Partials) -> Prompt:
        wanted, stamp = parse_ref(ref), self._database.stamp()
        with self._database.session() as session:
            # what a stored version includes stays readable for it, whoever has deleted it since
            row = queries.find(session, wanted, undefer(PromptRow.text), lazyload("*"), deleted=partials.inside)
            name, text, tensors, digest = f"{row.name}:{row.version}", row.text, row.tensors, row.digest
            deleted = row.deleted is not None
        if hashlib.sha256(f"{text}\n{tensors or ''}".encode()).hexdigest() != digest:  # as in Prompt.digest
            raise ForewordError(f"the text of {name!r} is not what was stored: bring the table back from a backup")
        prompt = self._recent.holding(digest)
        if prompt is None:
            soft = SoftTokens.from_bytes(self._tensors.get(tensors, name), name) if tensors is not None else None
            partials.charge(text)
            prompt = Prompt.from_text(text, name, soft=soft, resolve=partials)
        if not deleted:  # by itself it is not to be had
            self._recent.keep(wanted, stamp, digest, prompt)
        return prompt

    def version_of(self, name: str, digest: str) -> int | None:
        """The newest version of `name` whose prompt has this digest, deleted or not; None where there is none."""
        query = queries.newest(name, deleted=True).where(PromptRow.digest == digest)
        with self._database.session() as session:
            row = session.scalar(query)
            return row.version if row is not None else None

    def find(self, ref: str) -> Stored:
        """What the table knows of the version that `ref` stands for. Raises UsageError as `get` does."""
        with self._database.session() as session:
            return stored(queries.find(session, parse_ref(ref)))

    def alias(self, name: str, alias: str, version: int, message: str = "") -> None:
        """Makes `name@alias` mean this version from now on. Raises UsageError where there is no such version."""
        ref = parse_ref(f"{name}:{version}")
        check_alias(alias)
        with self._writing(name) as session:
            queries.find(session, ref)
            writes.move_alias(session, name, alias, version, message)

    def unalias(self, name: str, alias: str, message: str = "") -> int:
        """Removes the alias; returns the version that it stood for. Raises UsageError where there is no such alias."""
        check_alias(alias)
        with self._writing(name) as session:
            queries.find(session, Ref(name))
            return writes.remove_alias(session, name, alias, message)

    def aliases(self, name: str) -> dict[str, int]:
        """The version that each alias of `name` points at. Raises UsageError where there is no such prompt."""
        with self._database.session() as session:
            queries.find(session, Ref(name))
            query = select(AliasRow).where(AliasRow.name == name).order_by(AliasRow.alias)
            return {row.alias: row.version for row in session.scalars(query)}

    def move(self, name: str, alias: str, version: int, seen: int | None, message: str = "") -> None:
        """As `alias`, but only while `name@alias` still means version `seen`; None: while there is no such alias.

        Raises ForewordError where another has moved it since: what was decided on `seen` holds no more.
        """
        ref = parse_ref(f"{name}:{version}")
        check_alias(alias)
        with self._writing(name) as session:
            queries.find(session, ref)
            row = session.get(AliasRow, (name, alias))
            now = row.version if row is not None else None
            if now != seen:
                raise ForewordError(
                    f"'{name}@{alias}' has been moved by another in the meantime, from {_said(seen)} to {_said(now)}; "
                    "nothing is changed: try again"
                )
            writes.move_alias(session, name, alias, version, message)

    def list(
        self, name: str | None = None, tag: str | None = None, limit: int | None = None, after: str | None = None
    ) -> builtins.list[Stored]:
        """The newest version of every name, by name; or all versions of one, newest first. Of these `limit` at most.

        `tag`: only prompts that have it. `after`: the `ref` of the last one that was seen, for the page behind it.
        """
        _check_limit(limit)
        begin = parse_ref(after) if after is not None else None
        with self._database.session() as session:
            if name is None:
                return _all(session, queries.newest_of_each(tag, begin.name if begin else None, limit))
            queries.find(session, Ref(name))
            if tag is not None and tag not in writes.tags_of(session, name):
                return []
            if begin is not None and (begin.name != name or begin.version is None):
                raise UsageError(f"a page of {name!r} begins after one of its versions: '{name}:3', not {after!r}")
            return _all(session, queries.versions_of(name, begin.version if begin else None, limit))

    def search(
        self, text: str, tag: str | None = None, limit: int | None = None, after: str | None = None
    ) -> builtins.list[Stored]:
        """The prompts whose name, description, message or body holds `text`, in any case; by name, `limit` at most.

        Of each the newest version that holds it. `tag` and `after` as in `list`.
        """
        if len(text) > MAX_SEARCH:
            raise UsageError(f"a search takes {MAX_SEARCH:,} characters at most, not {len(text):,}")
        _check_limit(limit)
        begin = parse_ref(after).name if after is not None else None
        with self._database.session() as session:
            return _all(session, queries.newest_of_each(tag, begin, limit, _words(text)))

    def near(self, text: str) -> str:
        """Which names of prompts are like `text`, and some others, in words."""
        with self._database.session() as session:
            return queries.near_names(session, plain(text[:100]), LIVE, "stored prompts")

    def tags(self) -> builtins.list[str]:
        """All tags that prompts have, in order."""
        with self._database.session() as session:
            return [*session.scalars(queries.all_tags())]

    def tag(self, name: str, *tags: str) -> tuple[str, ...]:
        """Adds tags to a prompt, whatever its version; returns all it has then."""
        for tag in tags:
            check_tag(tag)
        with self._writing(name) as session:
            queries.find(session, Ref(name))
            writes.add_tags(session, name, tags)
            return tuple(writes.tags_of(session, name))

    def untag(self, name: str, *tags: str) -> tuple[str, ...]:
        """Takes tags off a prompt; returns those that are left. Raises UsageError when one of them is not there."""
        with self._writing(name) as session:
            queries.find(session, Ref(name))
            writes.take_tags(session, name, tags)
            return tuple(writes.tags_of(session, name))

    def delete(self, ref: str) -> builtins.list[str]:
        """Hides one version (`name:3`), or all of a `name`; returns which. `restore` takes it back.

        Their numbers are not given again, and nothing is lost. What is stored under a deleted name later gets the next
        number. Raises UsageError when there is no such version, or an alias stands for that one version.
        """
        wanted = _whole_or_version(ref)
        with self._writing(wanted.name) as session:
            return writes.hide(session, wanted)

    def restore(self, ref: str) -> builtins.list[str]:
        """Takes back the deletion of `name:3`, or the last deletion under `name`; returns what is there again."""
        wanted = _whole_or_version(ref)
        with self._writing(wanted.name) as session:
            return writes.unhide(session, wanted)

    def log(self, name: str, limit: int | None = None) -> builtins.list[Stored | AliasMove | Deletion]:
        """What has happened to a prompt, newest first: its versions, deleted or not, deletions and restorations, and
        every move of its aliases; `limit` at most. Raises UsageError where there never was such a prompt.
        """
        _check_limit(limit)
        with self._database.session() as session:
            if session.scalar(queries.newest(name, deleted=True)) is None:
                raise queries.missing(session, Ref(name))
            versions = _all(session, queries.versions_of(name, None, limit, deleted=True))
            moves = [move(row) for row in session.scalars(queries.moves_of(name, None, limit))]
            gone = [deletion(row) for row in session.scalars(queries.deletions_of(name, limit))]
        events: list[Stored | AliasMove | Deletion] = [*gone, *moves, *versions]  # of a moment, what came later first
        return sorted(events, key=lambda event: event.created, reverse=True)[:limit]

    def alias_history(self, name: str, alias: str | None = None, limit: int | None = None) -> builtins.list[AliasMove]:
        """Every move of a prompt's aliases, or of one of them, newest first; `limit` at most."""
        _check_limit(limit)
        with self._database.session() as session:
            queries.find(session, Ref(name))
            return [move(row) for row in session.scalars(queries.moves_of(name, alias, limit))]

    @contextmanager
    def _writing(self, name: str) -> Iterator[Session]:
        with self._database.session(write=True) as session:
            writes.hold(session, name)
            yield session

    def current(self) -> builtins.list[Current]:
        """The versions that names and aliases stand for now; cheap enough to be asked every second."""
        with self._database.session() as session:
            return queries.current(session)


def _said(version: int | None) -> str:
    return f"version {version}" if version is not None else "none"


def _all(session: Session, query: Select[PromptRow]) -> list[Stored]:
    return [stored(row) for row in session.scalars(query)]


def _check_limit(limit: int | None) -> None:
    """Databases read a negative one in ways of their own."""
    if limit is not None and limit < 1:
        raise UsageError(f"a limit of {limit} shows nothing; give 1 or more, or none")


def _whole_or_version(ref: str) -> Ref:
    wanted = parse_ref(ref)
    if "@" in ref:  # 'name@latest' too: it reads like one version, and would mean all
        raise UsageError(f"{ref!r} is an alias; say which version is meant, 'name:3', or all of 'name'")
    return wanted


def _words(*texts: str) -> str:
    return plain("\n".join(texts)).casefold()
