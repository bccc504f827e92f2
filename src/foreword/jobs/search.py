"""The job that optimizes a prompt and stores the best one as its next version. Knows the table; knows no search."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.backbone import Backbone, LanguageModel
from foreword.budgets import parse_budget
from foreword.errors import UsageError
from foreword.files import make_folder
from foreword.flows import Chain
from foreword.jobs.find import find_runnable, provenance
from foreword.jobs.load import load_model, load_task
from foreword.listen import SILENT, Listener
from foreword.optimization import Optimized
from foreword.optimization import optimize as search
from foreword.prompts import Prompt
from foreword.table import PromptTable, check_alias, stored_as
from foreword.tasks import Task


@dataclass(frozen=True)
class Searched:
    """A finished search, and the version that it stored."""

    outcome: Optimized
    backbone: str
    seed: int
    ref: str | None
    """The reference of the stored version; None if nothing better was found."""

    def to_json(self) -> dict[str, Any]:
        """Return everything for JSON but the prompts' own files."""
        return {"prompt": self.ref, "backbone": self.backbone, "seed": self.seed, **self.outcome.to_json()}


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
    """Search for better words and demonstrations than those of the hard prompt `ref`, and store a better prompt.

    `ref` may be a chain's `.yaml` file: then it is the prompt of its answering step.

    `proposer` is `backbone`, or `openai:URL#model`, which is sent training rows. The folder `out` keeps every
    measurement: the same call resumes the search. Raises what `foreword.optimize` raises.
    """
    parse_budget(budget, "calls")
    if alias is not None:
        check_alias(alias)
    if proposer is not None and proposer != "backbone" and not proposer.startswith("openai:"):
        raise UsageError(f"proposer {proposer!r}: write 'backbone' or openai:https://host/v1#model")
    store = PromptTable.open(table)
    begun = find_runnable(ref, store)
    if not isinstance(begun, Prompt | Chain):
        raise UsageError(f"{ref!r} is a function, and has no words to search; name a prompt or a chain")
    start, parent = (begun.last, None) if isinstance(begun, Chain) else (begun, stored_as(ref, store))
    if out is not None:
        make_folder(out)
    data = load_task(task, listener)
    model = load_model(backbone, dtype, listener)
    rewriter = model if proposer == "backbone" else load_model(proposer, dtype, listener) if proposer else None
    outcome = search(model, data, begun, budget=budget, proposer=rewriter, seed=seed, folder=out, listener=listener)
    stored_ref = _store(store, model, rewriter, data, start, parent, outcome, seed, alias) if outcome.improved else None
    listener.say(
        f"The search ended, {outcome.stopped}: {outcome.tried} prompts tried, {len(outcome.refused)} refused, "
        f"{outcome.calls:,} calls, {outcome.seconds:.0f} s."
    )
    return Searched(outcome, model.name, seed, stored_ref)


def _store(
    store: PromptTable, model: LanguageModel, proposer: LanguageModel | None, task: Task, start: Prompt,
    parent: str | None, outcome: Optimized, seed: int, alias: str | None,
) -> str:  # fmt: skip
    """Store the better prompt, and before it the start if that came from a file; return its reference."""
    if parent is None:
        parent = store.put(start, message=f"the start of a search on {task.name}").ref
    calls = str(outcome.calls)
    origin = provenance(task, start, parent, method="gepa", backbone=model.name, seed=str(seed), calls=calls)
    if isinstance(model, Backbone):
        origin["fingerprint"] = model.fingerprint
    if proposer is not None:
        origin["proposer"] = proposer.name
    message = f"optimized on {task.name}: dev {outcome.start_dev:.3f} before, {outcome.dev:.3f} after"
    return store.put(outcome.prompt, alias, message, parent, origin).ref
