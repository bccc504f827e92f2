"""The set-up of a run: of each task its prompt, its rows as tokens, its rows of dev. Knows no training.

The loop, the planner, the sweep and LoRA all begin here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foreword.backbone import Backbone
from foreword.errors import UsageError
from foreword.flows import bind, measure
from foreword.prompts import Prompt, expect_prompt
from foreword.tasks import Row, Task
from foreword.tuning.methods import METHODS, check_multitask
from foreword.tuning.options import TuneOptions
from foreword.tuning.rows import TrainingRows, encode_rows

Encoded = dict[tuple[str, str], TrainingRows]
"""Rows that have been encoded for a task, by the template's body and the objective."""


@dataclass(frozen=True)
class TaskSetup:
    """A task, ready to be learned."""

    task: Task
    start: Prompt
    """What it begins from."""
    prompt: Prompt
    """What is learned for it: the start with places for virtual tokens, and none in them yet. LoRA learns behind the
    text alone."""
    rows: TrainingRows
    dev: Sequence[Row]
    """Rows of dev that are measured during the run."""

    @classmethod
    def of(
        cls, backbone: Backbone, task: Task, start: Prompt, prompt: Prompt, options: TuneOptions,
        known: Encoded | None = None,
    ) -> "TaskSetup":  # fmt: skip
        """Encode the rows of `task` for `prompt`; rows that are in `known` are taken from there."""
        known, key = {} if known is None else known, (prompt.body, options.objective)
        if key not in known:
            known[key] = encode_rows(backbone, prompt, task, options.objective)
        return cls(task, start, prompt, known[key], task.dev[: options.dev_rows])


def set_up(
    backbone: Backbone, task: Task, start: Prompt, options: TuneOptions, known: Encoded | None = None
) -> tuple[TaskSetup, TuneOptions]:
    """One task as `tune` would learn it with `options`, and the settings as `prepare` completes them."""
    [prompt], complete = prepare([task], [start], options)
    return TaskSetup.of(backbone, task, start, prompt, complete, known), complete


def prepare(tasks: Sequence[Task], starts: Sequence[Prompt], options: TuneOptions) -> tuple[list[Prompt], TuneOptions]:
    """Every task's prompt with places for virtual tokens, and the settings with what the starts and the method decide.

    Needs no model. Raises UsageError where these tasks, starts and settings do not go together.
    """
    if len(starts) != len(tasks):
        raise UsageError(f"{len(starts)} start prompts for {len(tasks)} tasks; give every task its own, in their order")
    if not tasks:
        raise UsageError("there is no task to tune for; give at least one")
    if len(tasks) > 1:
        check_multitask(options.method)
    method = METHODS[options.method]
    prompts: list[Prompt] = []
    for task, start in zip(tasks, starts, strict=True):
        plain = text_of(task, start)
        if not plain.variables:
            raise UsageError(
                f"the start prompt {start.name!r} shows no input of task {task.name!r}, so that all rows "
                f"would look alike; write {{{{ {task.inputs[0]} }}}} into it"
            )
        name = soft_name(task.name, options.method)
        prompts.append(insert_virtual_tokens(plain, options.tokens, name, method.learns))
    first = prompts[0]
    for place, prompt in enumerate(prompts):
        if any(prompt.name == other.name for other in prompts[:place]):
            raise UsageError(f"two of the tasks would be called {prompt.name!r} in the table; rename one of them")
        if prompt.virtual_tokens != first.virtual_tokens:
            raise UsageError(
                f"{prompt.name!r} has {prompt.virtual_tokens} virtual tokens and {first.name!r} "
                f"{first.virtual_tokens}; prompts that are tuned together have the same number"
            )
    soft = {start.soft is not None for start in starts}
    if options.init is None and len(soft) > 1:
        raise UsageError("some starts have vectors and some have none; say where all of them begin with --init text")
    init = options.init or ("prompt" if soft == {True} else "text")
    if options.init_text is not None and init != "text":
        raise UsageError(f"the text to begin from is for the start 'text', and this run begins at {init!r}")
    return prompts, replace(options, tokens=first.virtual_tokens, init=init, learning_rate=options.rate)


def text_of(task: Task, start: Prompt) -> Prompt:
    """`start` as it answers `task`, without a prior: that fits one prompt on one model."""
    return expect_prompt(start).answering(task.choices).without_prior()


def soft_name(task: str, method: str) -> str:
    """What the prompt of a run is called in the table: the task's name as far as prompt names allow, and the method."""
    return f"{task.lower()[: 98 - len(method)].strip('._-')}-{method}"


def insert_virtual_tokens(prompt: Prompt, tokens: int, name: str, learns: str = "tokens") -> Prompt:
    """`prompt` with `tokens` virtual tokens in front; one that has places for them already keeps those.

    In a chat prompt they open the first turn, or, where keys and values are learned, stand before it.
    """
    if prompt.virtual_tokens:
        return prompt.replace(name=name, soft=None)
    turn = re.match(r"(?:\s|\{#.*?#\})*\{\{[-+]?\s*(?:system|user)\s*\(\s*\)\s*[-+]?\}\}", prompt.body, re.DOTALL)
    at = turn.end() if turn and learns == "tokens" else 0
    body = f"{prompt.body[:at]}{{{{ virtual({tokens}) }}}}{prompt.body[at:]}"
    return prompt.replace(name=name, body=body, soft=None)


def measure_dev(backbone: Backbone, task: Task, prompt: Prompt, rows: Sequence[Row]) -> float:
    """The task's metric over `rows` of its dev split, 0 to 1."""
    return measure(bind(prompt, backbone), task, rows).mean
