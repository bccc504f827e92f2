"""What the table tells of a version and of what has happened to it, without the prompt itself. Knows no queries."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, cast

from foreword.table.schema import AliasMoveRow, DeletionRow, PromptRow


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
    tags: tuple[str, ...] = ()
    """Of the prompt, whatever the version."""
    parent: str | None = None
    """`name:version` that it was made from; none for the first of its name."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """How it was made: of a tuned prompt the hash of the data, the run, the start and the backbone."""
    alias_versions: Mapping[str, int] = field(default_factory=dict)
    """All aliases of the prompt, and the version that each stands for."""
    deleted: datetime | None = None
    """Since when it is hidden, UTC; only a log shows such a version."""
    new: bool = field(default=False, compare=False)
    """Of what `put` returns: whether it was stored just now. False: the newest version said the same already."""
    moved: bool = field(default=False, compare=False)
    """Of what `put` returns: whether its alias stands for it only since."""

    @property
    def ref(self) -> str:
        """What `get` takes: `name:3`."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Current:
    """A version that a name, an alias, or several of them stand for."""

    name: str
    version: int
    digest: str
    virtual_tokens: int
    fingerprint: str | None
    """Of the backbone that its vectors were learned on; None: it has none."""
    newest: bool
    """Whether the bare name stands for it."""
    aliases: tuple[str, ...]

    @property
    def ref(self) -> str:
        """What `PromptTable.get` takes: `name:3`."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class AliasMove:
    """An alias that was made, pointed at another version, or removed."""

    name: str
    alias: str
    before: int | None
    """The version that it stood for until then; None when it was new."""
    version: int | None
    """The one that it has stood for since; None when it was removed."""
    author: str
    message: str
    created: datetime
    """UTC."""


@dataclass(frozen=True)
class Deletion:
    """Versions that were deleted, or restored."""

    name: str
    versions: tuple[int, ...]
    restored: bool
    author: str
    created: datetime
    """UTC."""


def stored(row: PromptRow, *, new: bool = False, moved: bool = False) -> Stored:
    """Reads aliases and tags too, so `row` must be in a session."""
    return Stored(
        name=row.name,
        version=row.version,
        kind=cast(Literal["hard", "soft"], row.kind),
        digest=row.digest,
        aliases=tuple(alias.alias for alias in row.aliases if alias.version == row.version),
        created=row.created,
        message=row.message,
        author=row.author,
        virtual_tokens=row.virtual_tokens,
        tags=tuple(tag.tag for tag in row.tags),
        parent=row.parent,
        origin=json.loads(row.origin) if row.origin else {},
        alias_versions={alias.alias: alias.version for alias in row.aliases},
        deleted=row.deleted,
        new=new,
        moved=moved,
    )


def move(row: AliasMoveRow) -> AliasMove:
    return AliasMove(row.name, row.alias, row.before, row.version, row.author, row.message, row.created)


def deletion(row: DeletionRow) -> Deletion:
    return Deletion(row.name, tuple(json.loads(row.versions)), row.restored, row.author, row.created)
