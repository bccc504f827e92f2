"""The job that moves an alias to another version through a gate. Knows the table; knows no statistics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.evals import Verdict, gate
from foreword.jobs.load import load_model, load_task
from foreword.listen import SILENT, Listener
from foreword.table import check_alias, find_table, meant_version


@dataclass(frozen=True)
class Promotion:
    """The outcome of a request to move an alias."""

    name: str
    alias: str
    version: int
    before: int | None
    """The version that the alias pointed to before; None if the alias is new."""
    verdict: Verdict | None
    """The verdict of the gate; None if the alias pointed to `version` already."""

    @property
    def moved(self) -> bool:
        """Return whether the alias points to `version` now."""
        return self.verdict is None or self.verdict.passed

    def to_json(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "prompt": self.name,
            "alias": self.alias,
            "version": self.version,
            "before": self.before,
            "moved": self.moved,
            "gate": self.verdict.to_json() if self.verdict else None,
        }


def promote(
    name: str,
    alias: str,
    version: str,
    *,
    task: Path,
    backbone: str,
    dtype: str = "auto",
    message: str = "",
    table: str | None = None,
    listener: Listener = SILENT,
) -> Promotion:
    """Point `alias` at `version` of the prompt `name` (a number, `NAME:2` or `NAME@ALIAS`), unless that is worse.

    The version is compared with the one that it would replace on the dev rows of the file `task`; if it is worse, the
    alias is not moved. Raises UsageError or ForewordError if there is no such version, or if the task does not fit.
    """
    store = find_table(table)
    number = meant_version(store, name, version)
    before, verdict = store.aliases(name).get(check_alias(alias)), None
    if before != number:
        names = (f"{name}:{number}", f"{name}:{before}")
        new, old = store.get(names[0]), store.get(names[1]) if before is not None else None
        data = load_task(task, listener)
        verdict = gate(load_model(backbone, dtype, listener), data, new, old, names, listener)
    promotion = Promotion(name, alias, number, before, verdict)
    if promotion.moved:
        store.move(name, alias, number, before, message)
    return promotion
