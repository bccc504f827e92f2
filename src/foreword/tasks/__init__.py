"""Tasks: rows with inputs and a target, a metric, and splits. Knows nothing of prompts or models."""

from foreword.tasks.metrics import METRICS, Metric
from foreword.tasks.sources import records
from foreword.tasks.task import Row, Task

__all__ = [
    "METRICS",
    "Metric",
    "Row",
    "Task",
    "records",
]
