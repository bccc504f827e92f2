"""Strategies that a job is given by name, and how what it stores came about."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.backbone import LanguageModel
from foreword.errors import ForewordError, UsageError
from foreword.evals import STRATEGIES
from foreword.evals.baselines import Factory
from foreword.flows import Answers, Chain, Function, Strategy
from foreword.prompts import Prompt
from foreword.table import PromptTable, find_prompt, is_path
from foreword.tasks import Task


@dataclass(frozen=True)
class Registered:
    """A strategy by its registered name; made for a task once there is a model."""

    name: str
    make: Factory


def find_strategy(ref: str, table: PromptTable) -> Prompt | Chain | Callable[..., Any] | Registered:
    """What `ref` names: a chain (`.yaml`), a Python function (`FILE.py:FUNCTION`), a prompt, or a registered strategy.

    A stored prompt goes before a registered strategy of the same name. Naming a Python file runs it.
    Raises ForewordError or UsageError where there is no such thing.
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


def find_runnable(ref: str, table: PromptTable) -> Prompt | Chain | Function:
    """What `ref` names, where one row can be answered without a task. Raises as `find_strategy`."""
    item = find_strategy(ref, table)
    if isinstance(item, Registered):
        raise UsageError(f"{ref!r} learns from a task's rows; measure it: 'foreword compare TASK.yaml {ref}'")
    return item if isinstance(item, Prompt | Chain) else Function.of(item)


def made(
    item: Answers | Registered, model: LanguageModel, task: Task
) -> Prompt | Chain | Strategy | Callable[..., Any]:
    """A registered strategy, made for this task; everything else as it is."""
    return item.make(model, task) if isinstance(item, Registered) else item


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """The function `name` of the Python file at `path`, which is run. Raises ForewordError where there is none."""
    if not os.path.isfile(path):
        raise ForewordError(f"no Python file {str(path)!r}; look at the path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        raise ForewordError(f"{str(path)!r} raised {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        there = ", ".join(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise UsageError(f"{str(path)!r} has no function {name!r}; it has {there or 'none'}")
    function: Callable[..., Any] = found
    return function


def provenance(task: Task, start: Prompt | None = None, parent: str | None = None, **more: str) -> dict[str, str]:
    """How a stored prompt came about: whoever has the data and the backbone can make it again.

    `parent` is the reference of `start` where that is stored.
    """
    begun = {"start": parent or start.name, "start_digest": start.digest} if start is not None else {}
    return {"task": task.name, "data": task.data_hash, **begun, **more}
