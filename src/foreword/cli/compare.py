"""`foreword compare`: prompts side by side on a task's test rows, with baselines, intervals and a verdict."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display, print_json, print_table
from foreword.cli.shared import (
    DEFAULT_BACKBONE,
    BackboneName,
    Dtype,
    Json,
    TableUrl,
    find_prompt,
    find_table,
    load_model,
    make_folder,
    short,
)

if TYPE_CHECKING:
    from foreword.prompts import Prompt


def compare(
    task: Annotated[Path, typer.Argument(help="The task file (YAML).")],
    prompts: Annotated[list[str], typer.Argument(help="Prompts: .prompt files or names in the table.")],
    examples: Annotated[
        int, typer.Option(min=0, help="Also try the best hard prompt with this many solved examples.")
    ] = 0,
    lora: Annotated[
        bool, typer.Option("--lora", help="Also train LoRA (PEFT) behind the best hard prompt, on a copy of the model.")
    ] = False,
    lora_steps: Annotated[int | None, typer.Option(help="Optimiser steps of LoRA at most. [default: 250]")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of LoRA. [default: 16]")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    seed: Annotated[int | None, typer.Option(help="Seed of the split. [default: the task's]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and result.json.")] = Path(),
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Measure prompts against each other on one's own data."""
    from foreword.backbone import Backbone
    from foreword.cli.tasks import load_task
    from foreword.errors import UsageError
    from foreword.evals import compare as measure
    from foreword.evals import evaluate_on_dev, few_shot
    from foreword.evals.comparison import save
    from foreword.tuning import Lora

    yaml = (".yaml", ".yml")
    if task.suffix == ".prompt" or (task.suffix not in yaml and any(ref.endswith(yaml) for ref in prompts)):
        found = next((ref for ref in prompts if ref.endswith(yaml)), "TASK.yaml")
        raise UsageError(f"{str(task)!r} is no task file; the task comes first: 'foreword compare {found} {task}'")
    given = {name: value for name, value in (("steps", lora_steps), ("rank", lora_rank)) if value is not None}
    if given and not lora:
        raise UsageError(f"--lora-{next(iter(given))} is for --lora; add that")
    adapters = Lora(**given) if lora else None
    with Display() as display:
        store = find_table(table)
        chosen = _named_apart([(ref, find_prompt(ref, store)) for ref in prompts])
        make_folder(out)
        data = load_task(task, display, seed)
        model = load_model(backbone, dtype, display)
        if adapters:
            adapters.check(model)
        weighed = {}
        if examples:
            hard = [prompt for prompt in chosen if prompt.soft is None]
            if not hard or not data.dev:
                raise UsageError("--examples needs a hard prompt and dev rows to choose it on")
            weighed = {c.plain.name: c for c in evaluate_on_dev(model, data, hard, display)}
            best = max(weighed.values(), key=lambda candidate: candidate.score)
            chosen.append(few_shot(best.plain, data, examples))
        settings = {"dtype": short(model.dtype)} if isinstance(model, Backbone) else {}
        result = measure(model, data, chosen, lora=adapters, evaluated=weighed, listener=display, settings=settings)
        page, document = save(result, out)
    if as_json:
        print_json(result.to_json())
    else:
        print_table(result.table())
        print(f"\n{page} shows it; {document} has the numbers.")
        measured = {strategy.name: strategy.calibrated for strategy in result.strategies}
        for ref, prompt in zip(prompts, chosen, strict=False):
            if measured[prompt.name] and prompt.output.log_prior is None:
                print(f"{ref} does better calibrated; 'foreword prompts calibrate {ref} --task {task}' stores it so.")


def _named_apart(prompts: "list[tuple[str, Prompt]]") -> "list[Prompt]":
    """Two versions of one prompt are told apart by what the user called them: `tickets:1` becomes `tickets.1`."""
    names = [prompt.name for _, prompt in prompts]
    renamed = []
    for ref, prompt in prompts:
        told = re.sub(r"[^a-z0-9._-]+", ".", ref.lower().removesuffix(".prompt")).strip("._-")[-100:].strip("._-")
        renamed.append(prompt.replace(name=told or prompt.name) if names.count(prompt.name) > 1 else prompt)
    return renamed
