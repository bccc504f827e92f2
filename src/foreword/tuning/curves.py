"""One point of a learning curve: what a run wrote down at a step. Knows nothing about how it was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CurvePoint:
    """A line of `curves.jsonl`. What older runs did not write down is None."""

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
    dev_rows: int | None = None
    """Rows that `dev` was measured on."""
    norm_ratio: float | None = None
    """Median norm of the virtual tokens over that of real ones; of keys and values, over their start's."""
    moved: float | None = None
    """Mean over tokens of the distance from the start, over the start's norm."""
    gradient: float | None = None
    """Mean norm of the gradient before it was clipped, over the steps since the last point."""
    clipped: float | None = None
    """Share of those steps in which it was clipped."""
    dev_by_task: dict[str, float] | None = None
    """Where several tasks are tuned together: each one's metric on dev, of which `dev` is the mean."""


APART = 0.1
"""The share of rows that two versions answer differently, about: it says how far their scores are apart by chance."""


def keeps(dev: float | None, curve: Sequence[CurvePoint], rows: int) -> bool:
    """Whether a version that scores `dev` on so many rows is kept instead of those measured before.

    A later version has learned more, so it is kept unless an earlier one did better by more than a standard error.
    """
    best = max((point.dev for point in curve if point.dev is not None), default=-math.inf)
    return dev is None or dev >= best - math.sqrt(APART / rows)


def peak(curve: Sequence[CurvePoint]) -> int:
    """The step that did best on dev, the first of equals; without dev, the last."""
    measured = [point for point in curve if point.dev is not None]
    return max(measured, key=lambda point: point.dev or 0.0).step if measured else curve[-1].step if curve else 0
