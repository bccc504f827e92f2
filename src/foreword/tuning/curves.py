"""One point of a learning curve: what a run wrote down at a step. Knows nothing about how it was measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CurvePoint:
    """A line of `curves.jsonl`."""

    step: int
    """Optimiser steps done."""
    rows: int
    """Training rows seen so far, repeats counted."""
    loss: float | None
    """Mean loss per answer token over the steps since the last point, in nats; None before the first step."""
    dev: float | None
    """The task's metric on dev, where it was measured at this step."""
    seconds: float
    """Wall time since the run began."""
