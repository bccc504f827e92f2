"""A search for better words, from a prompt that is named to its stored next version."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.backbone import Backbone, LanguageModel
from foreword.budgets import parse_budget
from foreword.errors import UsageError
from foreword.files import make_folder
from foreword.jobs.find import provenance
from foreword.jobs.load import load_model, load_task
from foreword.listen import SILENT, Listener
from foreword.optimization import Optimized
from foreword.optimization import optimize as search
from foreword.prompts import Prompt
from foreword.table import PromptTable, check_alias, find_prompt, stored_as
from foreword.tasks import Task


@dataclass(frozen=True)
class Searched:
    """A search that is over."""

    found: Optimized
    backbone: str
    seed: int
    ref: str | None
    """The stored version; None where nothing better was found."""

    def to_json(self) -> dict[str, Any]:
        """All of it but the prompts' own files."""
        return {"prompt": self.ref, "backbone": self.backbone, "seed": self.seed, **self.found.to_json()}


def optimize(
    ref: str,
    task: Path,
    *,
    backbone: str,
    dtype: str = "auto",
    budget: str = "2000calls",
    proposer: str | None = None,
    seed: int = 0,
    out: Path | None = None,
    alias: str | None = None,
    table: str | None = None,
    listener: Listener = SILENT,
) -> Searched:
    """Search for better words and demonstrations than those of the hard prompt `ref`, and store what was found.

    `proposer` is `backbone`, or `openai:URL#model`, which is sent training rows. `out` keeps what was measured: the
    same call again goes on from there.
    """
    parse_budget(budget, "calls")
    if alias is not None:
        check_alias(alias)
    if proposer is not None and proposer != "backbone" and not proposer.startswith("openai:"):
        raise UsageError(f"proposer {proposer!r}: write 'backbone' or openai:https://host/v1#model")
    store = PromptTable.open(table)
    start, parent = find_prompt(ref, store), stored_as(ref, store)
    if out is not None:
        make_folder(out)
    data = load_task(task, listener)
    model = load_model(backbone, dtype, listener)
    thinker = model if proposer == "backbone" else load_model(proposer, dtype, listener) if proposer else None
    found = search(model, data, start, budget=budget, proposer=thinker, seed=seed, folder=out, listener=listener)
    kept = _store(store, model, thinker, data, start, parent, found, seed, alias) if found.improved else None
    listener.say(
        f"The search ended, {found.stopped}: {found.tried} prompts tried, {len(found.refused)} refused, "
        f"{found.calls:,} calls, {found.seconds:.0f} s."
    )
    return Searched(found, model.name, seed, kept)


def _store(
    store: PromptTable, model: LanguageModel, proposer: LanguageModel | None, task: Task, start: Prompt,
    parent: str | None, found: Optimized, seed: int, alias: str | None,
) -> str:  # fmt: skip
    """Put the found prompt into the table, after the start where that came from a file; returns its reference."""
    if parent is None:
        parent = store.put(start, message=f"the start of a search on {task.name}").ref
    origin = provenance(task, start, parent, method="gepa", backbone=model.name, seed=str(seed), calls=str(found.calls))
    if isinstance(model, Backbone):
        origin["fingerprint"] = model.fingerprint
    if proposer is not None:
        origin["proposer"] = proposer.name
    message = f"optimized on {task.name}: dev {found.start_dev:.3f} before, {found.dev:.3f} after"
    return store.put(found.prompt, alias, message, parent, origin).ref
