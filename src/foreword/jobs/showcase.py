"""The demo: tunes, compares and stores prompts on real film reviews, and explains each step. Knows no terminal."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from foreword.backbone import Backbone
from foreword.evals import Candidate, Result, evaluate_on_dev, few_shot
from foreword.evals import compare as compare_strategies
from foreword.files import make_folder
from foreword.jobs.load import DEFAULT_BACKBONE, dtype_name, load_backbone, load_task
from foreword.jobs.tuning import run_provenance
from foreword.listen import SILENT, Listener
from foreword.prompts import Prompt
from foreword.table import PromptTable
from foreword.tasks import Task
from foreword.tuning import METHODS, Run, tune

HARD = ("plain", "opinion", "instruction", "chat")
SOFT = ("prompt-tuning", "p-tuning")
EXAMPLES = 8


@dataclass(frozen=True)
class Demo:
    """The result of the demo and the files and prompts that it made."""

    result: Result
    page: Path
    """The path of the report, in HTML."""
    document: Path
    """The path of the result, in JSON."""
    refs: tuple[str, ...]
    """The references of the stored prompts: the best hard prompt, then the soft ones."""
    seconds: float


def demo(
    *,
    out: Path = Path("demo"),
    seed: int = 7,
    steps: int = 120,
    dtype: str = "auto",
    table: str | None = None,
    listener: Listener = SILENT,
) -> Demo:
    """Tune two soft prompts on real film reviews, compare them with hard prompts, and write the report to `out`."""
    began = time.perf_counter()
    store = PromptTable.open(table)
    make_folder(out)
    listener.say("", heading="1. A frozen model and real data")
    with as_file(files(__package__) / "demo_files" / "movie-sentiment.yaml") as path:
        task = load_task(path, listener, seed)
    backbone = load_backbone(DEFAULT_BACKBONE, dtype, listener)

    listener.say(", measured on dev; test stays closed until the end.", heading="\n2. Hard prompts")
    listener.say("Small models prefer one label; calibration measures that bias on unlabelled rows and subtracts it.")
    hard = _measure_hard_prompts(backbone, task, listener)
    best = max(hard, key=lambda candidate: candidate.score)
    listener.say(f"The one to report is {best.plain.name}. It is also tried with {EXAMPLES} solved examples in front.")

    listener.say(
        ": 16 vectors in front of it, started from its words; all else is frozen.", heading="\n3. Soft prompts"
    )
    runs = [_tune(backbone, task, best.plain, method, steps, seed, out, listener) for method in SOFT]
    soft = evaluate_on_dev(backbone, task, [run.prompt for run in runs], listener)
    for candidate in soft:
        listener.say(f"  {_note(candidate)}")

    listener.say(": every strategy reads the same 1,000 rows, once.", heading="\n4. Test")
    result = compare_strategies(
        backbone,
        task,
        [best.plain, few_shot(best.plain, task, EXAMPLES), *runs],
        evaluated={candidate.plain.name: candidate for candidate in (best, *soft)},
        listener=listener,
        settings={
            "dtype": dtype_name(backbone.dtype),
            "steps": steps,
            "tuning seconds": round(sum(r.seconds for r in runs)),
        },
        notes=[_note(candidate) for candidate in (*hard, *soft)],
    )
    page, document = result.save(out / "report.html"), result.save(out / "result.json")
    refs = _store(store, task, best, list(zip(runs, soft, strict=True)))
    return Demo(result, page, document, refs, time.perf_counter() - began)


def _measure_hard_prompts(backbone: Backbone, task: Task, listener: Listener) -> list[Candidate]:
    candidates = []
    for name in HARD:
        with as_file(files(__package__) / "demo_files" / f"{name}.prompt") as path:
            candidates += evaluate_on_dev(backbone, task, [Prompt.load(path)], listener)
        listener.say(f"  {_note(candidates[-1])}")
    return candidates


def _note(candidate: Candidate) -> str:
    calibrated = f", {candidate.calibrated_score:.3f} calibrated" if candidate.calibrated_score is not None else ""
    return f"{candidate.plain.name}: {candidate.plain_score:.3f} on dev as it is{calibrated}"


def _tune(
    backbone: Backbone, task: Task, start: Prompt, method: str, steps: int, seed: int, out: Path, listener: Listener
) -> Run:
    listener.say(f"  {method} trains {METHODS[method].trains}.")
    folder = out / "runs" / f"{method}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = tune(
        backbone, task, start, method=method, steps=steps, eval_every=20, dev_rows=200, seed=seed, folder=folder,
        listener=listener,
    )  # fmt: skip
    best = max(point.dev or 0.0 for point in run.curves)
    numbers = f"{run.trained_parameters:,} trained numbers"
    listener.say(
        f"  {method}: best dev accuracy {best:.3f} after {run.steps} steps and {run.seconds:.0f} s, {numbers}."
    )
    return run


def _store(store: PromptTable, task: Task, start: Candidate, tuned: Sequence[tuple[Run, Candidate]]) -> tuple[str, ...]:
    message = "made by foreword demo"
    first = store.put(start.best, message=message).ref
    learned = [
        store.put(candidate.best, None, message, first, run_provenance(task, start.plain, first, run)).ref
        for run, candidate in tuned
    ]
    return (first, *learned)
