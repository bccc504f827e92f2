"""Foreword puts the right words, or the right vectors, in front of a frozen language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foreword.errors import ForewordError, UsageError

if TYPE_CHECKING:
    from foreword.backbone import Backbone, RemoteBackbone, Sampling
    from foreword.evals import calibrate, compare, few_shot
    from foreword.flows import Chain, Function, Program, Result, Strategy, trace
    from foreword.optimization import optimize
    from foreword.prompts import Prompt, diff
    from foreword.table import PromptTable
    from foreword.tasks import Task
    from foreword.tuning import Lora, tune, tune_many

__version__ = "0.1.0"
__all__ = [
    "Backbone",
    "Chain",
    "ForewordError",
    "Function",
    "Lora",
    "Program",
    "Prompt",
    "PromptTable",
    "RemoteBackbone",
    "Result",
    "Sampling",
    "Strategy",
    "Task",
    "UsageError",
    "calibrate",
    "compare",
    "diff",
    "few_shot",
    "optimize",
    "trace",
    "tune",
    "tune_many",
]

_ROOMS = {
    "Backbone": "backbone",
    "Chain": "flows",
    "Function": "flows",
    "Lora": "tuning",
    "Program": "flows",
    "Prompt": "prompts",
    "PromptTable": "table",
    "RemoteBackbone": "backbone",
    "Result": "flows",
    "Sampling": "backbone",
    "Strategy": "flows",
    "Task": "tasks",
    "calibrate": "evals",
    "compare": "evals",
    "diff": "prompts",
    "few_shot": "evals",
    "optimize": "optimization",
    "trace": "flows",
    "tune": "tuning",
    "tune_many": "tuning",
}


def __getattr__(name: str) -> Any:
    """Open a room when it is first asked for: torch takes seconds, and `foreword --help` must not wait for it."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'foreword' has no attribute {name!r}")
    return getattr(import_module(f"foreword.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
