"""One of the tasks that a run learns: its prompt, its rows as tokens, its rows of dev. Knows no training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from foreword.errors import UsageError
from foreword.prompts import Prompt
from foreword.prompts.prompt import expect
from foreword.tasks import Row, Task
from foreword.tuning.methods import METHODS
from foreword.tuning.options import TuneOptions
from foreword.tuning.rows import TrainingRows
from foreword.tuning.start import soften


@dataclass(frozen=True)
class Lesson:
    """A task and the prompt that is learned for it."""

    task: Task
    start: Prompt
    """What it begins from."""
    prompt: Prompt
    """The start with places for virtual tokens, and none in them yet."""
    rows: TrainingRows
    dev: Sequence[Row]
    """Rows of dev that are measured during the run."""


def soft_name(task: str, method: str) -> str:
    """What the prompt of a run is called in the table: the task's name as far as prompt names allow, and the method."""
    return f"{task.lower()[: 98 - len(method)].strip('._-')}-{method}"


def prepare(tasks: Sequence[Task], starts: Sequence[Prompt], options: TuneOptions) -> tuple[list[Prompt], TuneOptions]:
    """Every task's prompt with places for virtual tokens, and the settings with what the starts and the method decide.

    Raises UsageError where these tasks, starts and settings do not go together.
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
        plain = expect(start).answering(task.choices).without_prior()  # a prior fits one prompt
        if not plain.variables:
            raise UsageError(
                f"the start prompt {start.name!r} shows no input of task {task.name!r}, so that all rows "
                f"would look alike; write {{{{ {task.inputs[0]} }}}} into it"
            )
        prompts.append(soften(plain, options.tokens, soft_name(task.name, options.method), method.learns))
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


def check_multitask(method: str) -> None:
    """Raises UsageError where `method` tunes one task at a time."""
    if not METHODS[method].multitask:
        several = " or ".join(name for name, found in METHODS.items() if found.multitask)
        raise UsageError(f"method {method!r} tunes one task at a time; for several choose --method {several}")


def shares(batch: int, tasks: int) -> list[int]:
    """The rows of a step that each task has: as even as can be, at least one."""
    return [max(1, batch // tasks + (task < batch % tasks)) for task in range(tasks)]
