"""An alias that moves to another version through a gate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.evals import Verdict, gate
from foreword.jobs.load import load_model, load_task
from foreword.listen import SILENT, Listener
from foreword.table import check_alias, find_table, meant_version


@dataclass(frozen=True)
class Promotion:
    """What became of an alias that was to move."""

    name: str
    alias: str
    version: int
    before: int | None
    """The version that the alias pointed to; None where there was none."""
    verdict: Verdict | None
    """The gate's; None where the alias pointed to `version` already."""

    @property
    def moved(self) -> bool:
        """Whether the alias points to `version` now."""
        return self.verdict is None or self.verdict.passed

    def to_json(self) -> dict[str, Any]:
        """All of it."""
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
    """Point `alias` at `version` of the prompt `name` (a number, `NAME:2` or `NAME@ALIAS`) where it is not worse.

    It is measured on the dev rows of the task file beside the version that it would replace; a worse one leaves the
    alias where it is.
    """
    store = find_table(table)
    number = meant_version(store, name, version)
    before, verdict = store.aliases(name).get(check_alias(alias)), None
    if before != number:
        names = (f"{name}:{number}", f"{name}:{before}")
        new, old = store.get(names[0]), store.get(names[1]) if before is not None else None
        data = load_task(task, listener)
        verdict = gate(load_model(backbone, dtype, listener), data, new, old, names, listener)
    found = Promotion(name, alias, number, before, verdict)
    if found.moved:
        store.move(name, alias, number, before, message)
    return found
