"""Whole jobs for the command line, a program or a web page: from names and files to a stored, measured result.

Every job takes a `listener` and prints nothing. Knows tables, tasks and models; knows no terminal and no HTTP.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreword.jobs.calibration import Calibrated, calibrate
    from foreword.jobs.comparison import Compared, compare, diff_on_task
    from foreword.jobs.find import find_runnable, find_strategy
    from foreword.jobs.load import begin_loading, dtype_name, load_backbone, load_model, load_task
    from foreword.jobs.promotion import Promotion, promote
    from foreword.jobs.search import Searched, optimize
    from foreword.jobs.showcase import Demo, demo
    from foreword.jobs.tuning import Tuned, to_json, tune

_FILES = {
    "Calibrated": "calibration",
    "Compared": "comparison",
    "Demo": "showcase",
    "Promotion": "promotion",
    "Searched": "search",
    "Tuned": "tuning",
    "begin_loading": "load",
    "calibrate": "calibration",
    "compare": "comparison",
    "demo": "showcase",
    "diff_on_task": "comparison",
    "dtype_name": "load",
    "find_runnable": "find",
    "find_strategy": "find",
    "load_backbone": "load",
    "load_model": "load",
    "load_task": "load",
    "optimize": "search",
    "promote": "promotion",
    "to_json": "tuning",
    "tune": "tuning",
}
__all__ = [
    "Calibrated",
    "Compared",
    "Demo",
    "Promotion",
    "Searched",
    "Tuned",
    "begin_loading",
    "calibrate",
    "compare",
    "demo",
    "diff_on_task",
    "dtype_name",
    "find_runnable",
    "find_strategy",
    "load_backbone",
    "load_model",
    "load_task",
    "optimize",
    "promote",
    "to_json",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import a job on first use: a program that only loads a model need not wait for statistics."""
    if name not in _FILES:
        raise AttributeError(f"module 'foreword.jobs' has no attribute {name!r}")
    return getattr(import_module(f"foreword.jobs.{_FILES[name]}"), name)
