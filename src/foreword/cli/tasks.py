"""What verbs do with a task: read it, begin without a prompt, measure a prompt on its rows."""

from pathlib import Path
from typing import TYPE_CHECKING

from foreword.cli.console import Display
from foreword.errors import UsageError

if TYPE_CHECKING:
    from foreword.backbone import Backbone
    from foreword.prompts import Prompt
    from foreword.tasks import Row, Task


def load_task(path: Path, display: Display, seed: int | None = None) -> "Task":
    """The task, and what was left out of its data."""
    from foreword.tasks import Task

    task = Task.load(path, seed, display)
    display.say(
        f"Task {task.name}: {len(task.train):,} rows to train on, {len(task.dev):,} dev, {len(task.test):,} test."
    )
    for note in task.notes:
        display.say(f"  {note}")
    return task


def plain_prompt(task: "Task") -> "Prompt":
    """A prompt with nothing but the inputs, named, for who has none yet."""
    from foreword.prompts import Prompt

    for name in task.inputs:
        if not name.isidentifier():
            raise UsageError(
                f"task {task.name!r}: the input {name!r} cannot be a template's variable; rename the column, with "
                "letters, digits and '_' only"
            )
    lines = [f"{name.capitalize()}: {{{{ {name} }}}}" for name in task.inputs]
    return Prompt(f"{task.name}-plain".lower(), "\n".join([*lines, "Answer:"]))


def measure(
    model: "Backbone", task: "Task", prompt: "Prompt", rows: "tuple[Row, ...]", split: str, display: Display
) -> dict[str, dict[str, float]]:
    """The task's metric with its 95 % interval; nothing where the split is empty."""
    from foreword.evals.statistics import score_interval

    if not rows:
        return {}
    inputs = [prompt.take_texts(row.inputs, row.id) for row in rows]
    answers = model.answer(prompt, inputs, on_rows=lambda done, total: display.stage(f"measuring {split}", done, total))
    found = score_interval(task.score([answer.text for answer in answers], rows))
    return {task.metric: {"value": found.value, "low": found.low, "high": found.high}}
