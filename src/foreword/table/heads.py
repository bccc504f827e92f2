"""What every name and every alias stands for now, in three queries however many there are. Reads no prompts."""

from dataclasses import dataclass

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from foreword.table.schema import LIVE, AliasRow, PromptRow


@dataclass(frozen=True)
class Head:
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


def heads(session: Session) -> list[Head]:
    """By name and version."""
    newest = select(PromptRow.name, func.max(PromptRow.version)).where(LIVE).group_by(PromptRow.name)
    latest = {(name, version) for name, version in session.execute(newest)}
    aliases: dict[tuple[str, int], list[str]] = {}
    for alias in session.scalars(select(AliasRow).order_by(AliasRow.alias)):
        aliases.setdefault((alias.name, alias.version), []).append(alias.alias)
    place = tuple_(PromptRow.name, PromptRow.version)
    named = place.in_(newest) | place.in_(select(AliasRow.name, AliasRow.version))
    columns = (PromptRow.name, PromptRow.version, PromptRow.digest, PromptRow.virtual_tokens, PromptRow.fingerprint)
    return [
        Head(*row, (row.name, row.version) in latest, tuple(aliases.get((row.name, row.version), ())))
        for row in session.execute(select(*columns).where(named, LIVE).order_by(PromptRow.name, PromptRow.version))
    ]
