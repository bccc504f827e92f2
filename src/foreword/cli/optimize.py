"""`foreword optimize`: search for better words and demonstrations; the result is the prompt's next version."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import (
    DEFAULT_BACKBONE,
    BackboneName,
    Dtype,
    Json,
    TableUrl,
    find_prompt,
    load_model,
    make_folder,
    stored_as,
)
from foreword.errors import UsageError

if TYPE_CHECKING:
    from foreword.backbone import LanguageModel
    from foreword.optimization import Optimized
    from foreword.prompts import Prompt
    from foreword.table import PromptTable
    from foreword.tasks import Task


def optimize(
    prompt: Annotated[
        str, typer.Argument(help="The hard prompt to begin from: a .prompt file or a name in the table.")
    ],
    task: Annotated[Path, typer.Option(help="The task file (YAML).")],
    budget: Annotated[
        str, typer.Option(help="How long to search: 2000calls (rows answered), 90s, 10m or 1.5h.")
    ] = "2000calls",
    proposer: Annotated[
        str | None,
        typer.Option(
            help="Who rewords the instruction beside the built-in edits: backbone, or openai:URL#model, which is sent "
            "training rows."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder that keeps what was measured: the same call again goes on from there.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to give the stored version.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Search for an instruction and demonstrations that do better on a task than a prompt's own.

    Chosen on dev, reported once on test. Ctrl-C ends the search and keeps the best so far.
    """
    from foreword.budgets import parse_budget
    from foreword.cli.tasks import load_task
    from foreword.optimization import optimize as search
    from foreword.table import PromptTable
    from foreword.table.refs import check_alias

    parse_budget(budget, "calls")
    if alias is not None:
        check_alias(alias)
    if proposer is not None and proposer != "backbone" and not proposer.startswith("openai:"):
        raise UsageError(f"--proposer {proposer!r}: write 'backbone' or openai:https://host/v1#model")
    with Display() as display:
        store = PromptTable.open(table)
        start, parent = find_prompt(prompt, store), stored_as(prompt, store)
        if out is not None:
            make_folder(out)
        data = load_task(task, display)
        model = load_model(backbone, dtype, display)
        thinker = model if proposer == "backbone" else load_model(proposer, dtype, display) if proposer else None
        found = search(
            model, data, start, budget=budget, proposer=thinker, seed=seed, folder=out, listener=display,
        )  # fmt: skip
        ref = None
        if found.improved:
            ref = _store(store, model, thinker, data, start, parent, found, seed, alias)
        display.say(
            f"The search ended, {found.stopped}: {found.tried} prompts tried, {len(found.refused)} refused, "
            f"{found.calls:,} calls, {found.seconds:.0f} s."
        )
    if as_json:
        print_json({"prompt": ref, "backbone": model.name, "seed": seed, **found.to_json()})
        return
    print(f"dev {found.start_dev:.3f} before, {found.dev:.3f} after (which it was chosen on)\n{found.verdict}")
    if ref is not None:
        print(ref)


def _store(
    store: "PromptTable", model: "LanguageModel", proposer: "LanguageModel | None", task: "Task", start: "Prompt",
    parent: str | None, found: "Optimized", seed: int, alias: str | None,
) -> str:  # fmt: skip
    """Put the found prompt into the table, after the start where that came from a file; returns its reference."""
    from foreword.backbone import Backbone

    if parent is None:
        parent = store.put(start, message=f"the start of a search on {task.name}").ref
    origin = {
        "task": task.name,
        "data": task.data_hash,
        "method": "gepa",
        "start": parent,
        "start_digest": start.digest,
        "backbone": model.name,
        "seed": str(seed),
        "calls": str(found.calls),
    }
    if isinstance(model, Backbone):
        origin["fingerprint"] = model.fingerprint
    if proposer is not None:
        origin["proposer"] = proposer.name
    message = f"optimized on {task.name}: dev {found.start_dev:.3f} before, {found.dev:.3f} after"
    return store.put(found.prompt, alias, message, parent, origin).ref
