"""Looks up strategies by reference, and records the provenance of stored prompts. Knows the table; knows no tuning."""

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foreword.backbone import LanguageModel
from foreword.errors import ForewordError, UsageError
from foreword.evals import STRATEGIES, Factory
from foreword.flows import Answers, Chain, Function, Strategy
from foreword.prompts import Prompt
from foreword.table import PromptTable, find_prompt, is_path
from foreword.tasks import Task


@dataclass(frozen=True)
class Registered:
    """A registered strategy, which is made once the task and the model are loaded."""

    name: str
    make: Factory


def find_strategy(ref: str, table: PromptTable) -> Prompt | Chain | Callable[..., Any] | Registered:
    """Return what `ref` names: a chain (`.yaml`), a function (`FILE.py:FUNCTION`), a prompt or a registered strategy.

    A stored prompt goes before a registered strategy of the same name. A Python file is run. Raises ForewordError or
    UsageError if `ref` names nothing.
    """
    if ref.endswith((".yaml", ".yml")):
        return Chain.load(ref, table)
    path, colon, function = ref.rpartition(":")
    if colon and path.endswith(".py"):
        return load_function(Path(path), function)
    if is_path(ref) or ref not in STRATEGIES or _is_stored(ref, table):
        return find_prompt(ref, table)
    return Registered(ref, STRATEGIES[ref])


def _is_stored(ref: str, table: PromptTable) -> bool:
    try:
        table.find(ref)
    except UsageError:
        return False
    return True


def find_runnable(ref: str, table: PromptTable) -> Prompt | Chain | Strategy:
    """Return what `ref` names, if it can answer a row without a task.

    Raises UsageError for a registered strategy, and whatever `find_strategy` raises.
    """
    item = find_strategy(ref, table)
    if isinstance(item, Registered):
        raise UsageError(f"{ref!r} learns from a task's rows; measure it: 'foreword compare TASK.yaml {ref}'")
    if isinstance(item, type):
        raise UsageError(f"{ref!r} is a class; name a function, or an object of it")
    return item if isinstance(item, Prompt | Chain | Strategy) else Function.of(item)


def make_registered(
    item: Answers | Registered, model: LanguageModel, task: Task
) -> Prompt | Chain | Strategy | Callable[..., Any]:
    """Make a registered strategy for this task, which is shown no test rows; return everything else as it is.

    Raises ForewordError if it cannot be made.
    """
    if not isinstance(item, Registered):
        return item
    try:
        return item.make(model, replace(task, test=()))
    except ForewordError:
        raise
    except Exception as error:  # another package's code
        raise ForewordError(f"strategy {item.name!r} cannot be made: {type(error).__name__}: {error}") from error


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Run the Python file at `path` and return its function `name`. Raises ForewordError if there is none."""
    if not os.path.isfile(path):
        raise ForewordError(f"no Python file {str(path)!r}; look at the path")
    spec = importlib.util.spec_from_file_location(f"foreword_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up there
    if (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)  # as Python has it for a file that it runs
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code
        raise ForewordError(f"{str(path)!r} raised {type(error).__name__}: {error}") from error
    member = getattr(module, name, None)
    if not callable(member) and not isinstance(member, Strategy):
        functions = ", ".join(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise UsageError(f"{str(path)!r} has no function {name!r}; it has {functions or 'none'}")
    function: Callable[..., Any] = member
    return function


def provenance(task: Task, start: Prompt | None = None, parent: str | None = None, **more: str) -> dict[str, str]:
    """Return how a prompt was made: with the same data and backbone anyone can make it again.

    `parent` is the reference of `start`, if that is stored.
    """
    origin = {"start": parent or start.name, "start_digest": start.digest} if start is not None else {}
    return {"task": task.name, "data": task.data_hash, **origin, **more}
