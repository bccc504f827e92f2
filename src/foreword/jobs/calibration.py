"""The job that calibrates a prompt and stores it as the next version. Knows the table; knows no statistics."""

from dataclasses import dataclass
from pathlib import Path

from foreword.errors import UsageError
from foreword.evals import Candidate, evaluate_on_dev
from foreword.jobs.find import provenance
from foreword.jobs.load import load_backbone, load_task
from foreword.listen import SILENT, Listener
from foreword.table import PromptTable, Stored, find_prompt, stored_as
from foreword.tasks import Task


@dataclass(frozen=True)
class Calibrated:
    """The stored version, with the dev scores of both forms."""

    stored: Stored
    candidate: Candidate
    task: Task
    log_prior: tuple[float, ...]
    """For each choice, what is subtracted from its log-likelihood, in nats."""


def calibrate(
    ref: str,
    task: Path,
    *,
    backbone: str,
    dtype: str = "auto",
    alias: str | None = None,
    table: str | None = None,
    listener: Listener = SILENT,
) -> Calibrated:
    """Measure the label bias of the prompt `ref` on unlabelled training rows, and store the calibrated prompt.

    `task` is a task file. Raises UsageError if the prompt has no choices, ForewordError if the task has no dev rows.
    """
    store = PromptTable.open(table)
    prompt = find_prompt(ref, store).without_prior()
    data = load_task(task, listener)
    model = load_backbone(backbone, dtype, listener)
    model.check(prompt)
    [candidate] = evaluate_on_dev(model, data, [prompt], listener)
    if candidate.calibrated is None or candidate.calibrated.output.log_prior is None:
        raise UsageError(f"{ref!r} has no choices, so there is nothing to calibrate; give its task 'choices'")
    origin = {"calibrated on": model.name, **provenance(data)}
    stored = store.put(candidate.calibrated, alias, f"calibrated on {data.name}", stored_as(ref, store), origin)
    return Calibrated(stored, candidate, data, candidate.calibrated.output.log_prior)
