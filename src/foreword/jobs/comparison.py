"""The job that loads strategies by reference, compares them on a task and writes the report. Knows no statistics."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foreword.backbone import Backbone
from foreword.errors import UsageError
from foreword.evals import Candidate, Flips, Result, evaluate_on_dev, few_shot, flips
from foreword.evals import compare as compare_strategies
from foreword.files import make_folder
from foreword.flows import Answers, Chain
from foreword.jobs.find import Registered, find_strategy, make_registered
from foreword.jobs.load import dtype_name, load_model, load_task
from foreword.listen import SILENT, Listener
from foreword.prompts import Prompt
from foreword.table import find_table
from foreword.tuning import Lora


@dataclass(frozen=True)
class Compared:
    """A finished comparison and the files that it was written to."""

    result: Result
    page: Path
    """The path of the report, in HTML."""
    document: Path
    """The path of the result, in JSON."""
    better_calibrated: tuple[str, ...]
    """The references of prompts that scored higher on dev calibrated, but are stored uncalibrated."""


def compare(
    task: Path,
    refs: Sequence[str],
    *,
    backbone: str,
    dtype: str = "auto",
    examples: int = 0,
    lora: Lora | None = None,
    seed: int | None = None,
    out: Path = Path(),
    table: str | None = None,
    listener: Listener = SILENT,
) -> Compared:
    """Measure what `refs` name on the test rows of the task file, and write `report.html` and `result.json` to `out`.

    A reference is a prompt (file or name), a chain's `.yaml` file, `FILE.py:FUNCTION`, or a registered strategy. With
    `examples`, the hard prompt that is best on dev is also measured with that many solved training rows in front.
    Raises UsageError or ForewordError if a reference names nothing, or does not fit the task or the model.
    """
    _check_task_comes_first(task, refs)
    store = find_table(table)
    chosen = _rename_duplicates([(ref, find_strategy(ref, store)) for ref in refs])
    make_folder(out)
    data = load_task(task, listener, seed)
    model = load_model(backbone, dtype, listener)
    if lora is not None:
        lora.check(model)
    evaluated: dict[str, Candidate] = {}
    items: list[Answers] = [make_registered(item, model, data) for item in chosen]
    if examples:
        hard = [item for item in chosen if isinstance(item, Prompt) and item.soft is None]
        if not hard or not data.dev:
            raise UsageError("examples need a hard prompt and dev rows to choose it on")
        evaluated = {c.plain.name: c for c in evaluate_on_dev(model, data, hard, listener)}
        best = max(evaluated.values(), key=lambda candidate: candidate.score)
        items.append(few_shot(best.plain, data, examples))
    settings = {"dtype": dtype_name(model.dtype)} if isinstance(model, Backbone) else {}
    result = compare_strategies(
        model, data, items, lora=lora, evaluated=evaluated, listener=listener, settings=settings
    )
    calibrated = {strategy.name: strategy.calibrated for strategy in result.strategies}
    better = [
        ref
        for ref, item in zip(refs, chosen, strict=True)
        if isinstance(item, Prompt) and calibrated[item.name] and item.output.log_prior is None
    ]
    return Compared(result, result.save(out / "report.html"), result.save(out / "result.json"), tuple(better))


def _check_task_comes_first(task: Path, refs: Sequence[str]) -> None:
    yaml = (".yaml", ".yml")
    if task.suffix == ".prompt" or (task.suffix not in yaml and any(ref.endswith(yaml) for ref in refs)):
        task_file = next((ref for ref in refs if ref.endswith(yaml)), "TASK.yaml")
        raise UsageError(f"{str(task)!r} is no task file; the task comes first: 'foreword compare {task_file} {task}'")


def _rename_duplicates(named: Sequence[tuple[str, Answers | Registered]]) -> list[Answers | Registered]:
    """Rename prompts and chains of equal name after their references: `tickets:1` becomes `tickets.1`."""
    names = [item.name for _, item in named if isinstance(item, Prompt | Chain)]
    renamed: list[Answers | Registered] = []
    for ref, item in named:
        if isinstance(item, Prompt | Chain) and names.count(item.name) > 1:
            plain = ref.lower().removesuffix(".prompt").removesuffix(".yaml").removesuffix(".yml")
            unique = re.sub(r"[^a-z0-9._-]+", ".", plain).strip("._-")[-100:].strip("._-")
            renamed.append(replace(item, name=unique or item.name))
        else:
            renamed.append(item)
    return renamed


def diff_on_task(
    task: Path,
    a: str,
    b: str,
    *,
    backbone: str,
    dtype: str = "auto",
    table: str | None = None,
    listener: Listener = SILENT,
) -> Flips:
    """Measure which answers to the dev rows of a task file flip when `b` replaces `a`; test rows are not read.

    Both are references as `compare` takes them. Raises ForewordError or UsageError if one is not found, or does not fit
    the task or the model.
    """
    store = find_table(table)
    old, new = find_strategy(a, store), find_strategy(b, store)
    data = load_task(task, listener)
    model = load_model(backbone, dtype, listener)
    items = make_registered(old, model, data), make_registered(new, model, data)
    return flips(model, data, *items, (a, b), listener)
