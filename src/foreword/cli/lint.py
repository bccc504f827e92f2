"""`foreword prompts lint`: lists what is likely wrong with a prompt."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import Dtype, Json, TableUrl
from foreword.files import read_text

if TYPE_CHECKING:
    from foreword.prompts import Resolve


def lint(
    ref: Annotated[str, typer.Argument(metavar="PROMPT", help="A .prompt file or a name in the table.")],
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Also check tokens and context length on this backbone.")
    ] = None,
    task: Annotated[
        Path | None, typer.Option(help="Also check against the rows and choices of this task file.")
    ] = None,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """List what is likely wrong with a prompt. Exit code 1 if there are errors."""
    from foreword.jobs import load_backbone
    from foreword.prompts import lint_text
    from foreword.table import find_prompt, find_table, is_path, resolve_pinned
    from foreword.tasks import Task

    store = find_table(table)
    data = Task.load(task) if task is not None else None
    folder = Path(ref).parent if is_path(ref) else None
    resolve: Resolve = store.get
    if is_path(ref):
        text, tuned = read_text(Path(ref), "prompt file", mark=True), Path(ref).with_suffix(".safetensors").is_file()
    else:
        stored = store.get(ref)
        text, tuned = stored.to_text(), stored.soft is not None
        resolve = resolve_pinned(stored)  # included prompts are read in their pinned versions, deleted or not
    expected = {"columns": data.inputs, "choices": data.choices} if data is not None else {}
    prompt, findings = lint_text(text, ref, resolve, folder, **expected, tuned=tuned)
    if prompt is not None and backbone is not None:
        from foreword.backbone import lint_tokens

        prompt = find_prompt(ref, store)  # with its vectors
        fits = not any(finding.severity == "error" for finding in findings)
        rows = [row.inputs for row in (*data.train, *data.dev, *data.test)] if data is not None and fits else []
        with Display() as display:
            findings += lint_tokens(prompt, load_backbone(backbone, dtype, display), rows)
    counts = Counter(finding.severity for finding in findings)
    if as_json:
        print_json({"prompt": ref, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            place = f"{ref}:{finding.line}" if finding.line is not None else ref
            print(f"{place}: {finding.severity}: {finding.what}; {finding.todo}")
        print(f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes", flush=True)
    raise typer.Exit(1 if counts["error"] else 0)
