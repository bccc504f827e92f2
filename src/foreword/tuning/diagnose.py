"""What a learning curve says has gone wrong, and what to try. Knows numbers only: no files, no models.

A warning is a sentence: the cause, then the switch. Those about a run that learns too little are kept back while dev
gains, so that a run that does well is not told off for how it does it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from foreword.tuning.curves import CurvePoint, peak
from foreword.tuning.methods import METHODS, usable
from foreword.tuning.options import TuneOptions

LARGE = 2.0
"""Norm ratio: a text's tokens lie near 1, and the model has seen nothing that is twice as long."""
STILL = 0.01
"""Relative distance from the start: bfloat16 rounds every number by up to 0.4 %, which hides a change as small."""
MOST = 0.5
"""Share of clipped steps from which on it is the clip, and not the gradient, that says how far a step goes."""
PROGRESS = 0.02
"""Relative fall of the loss: less is the sampling error of a mean over some thousand rows."""
SWING = 0.15
"""Relative change of the loss between two points of many rows; smaller points must change by more, see `CHANCE`."""
CHANCE = 3.0
"""Standard errors by which a loss must change to be more than chance, in a curve with many points to look at."""
NOISE = 2.0
"""Standard errors that two measurements must lie apart to be told apart: 95 %."""
COARSE = 0.10
"""The smallest difference that dev can show. Tuning gains 5 to 10 points where it gains, so it must not be above."""


def diagnose(curve: Sequence[CurvePoint], options: TuneOptions) -> tuple[str, ...]:
    """Warnings about a run, finished or not, most telling first; none where all is well."""
    checks: list[Callable[[Sequence[CurvePoint], TuneOptions], str | None]]
    checks = [_too_large, _unmoved, _clipped, _oscillating]
    found = [warning for check in checks if (warning := check(curve, options))]
    checks = [_overfitting, _coarse] if found else [_plateau, _overfitting, _coarse]  # a plateau has causes of its own
    return tuple(found + [warning for check in checks if (warning := check(curve, options))])


def _too_large(curve: Sequence[CurvePoint], options: TuneOptions) -> str | None:
    ratios = [point.norm_ratio for point in curve if point.norm_ratio is not None]
    if not ratios or ratios[-1] <= LARGE:
        return None
    usual = "their start" if METHODS[options.method].learns == "prefix" else "real tokens"
    cause = f"the vectors' norm is {ratios[-1]:.1f} times that of {usual}, where the model has seen nothing"
    if ratios[0] > LARGE:
        return f"{cause}, and was {ratios[0]:.1f} times at the start: begin from a text, --init text"
    return f"{cause}: lower the learning rate, --lr {options.rate / 3:.2g}"


def _unmoved(curve: Sequence[CurvePoint], options: TuneOptions) -> str | None:
    if not _late(curve, options) or curve[-1].moved is None or curve[-1].moved >= STILL or _better(curve, options):
        return None
    return (
        f"the vectors have moved by {curve[-1].moved:.1%} of their length in {curve[-1].step} steps, hardly more than "
        f"rounding: raise the learning rate, --lr {options.rate * 3:.2g}"
    )


def _clipped(curve: Sequence[CurvePoint], options: TuneOptions) -> str | None:
    """A cause of a plateau only: AdamW does not see how long a gradient is, so a run may learn well behind its clip.

    In the later half, because the first steps are steep in every run.
    """
    parts = [
        (point.step - before.step, point.clipped)
        for before, point in pairwise(curve)
        if point.clipped is not None and point.step > curve[-1].step / 2
    ]
    steps = sum(length for length, _ in parts)
    if not steps or _stuck(curve, options) is None:
        return None
    share = sum(length * clipped for length, clipped in parts) / steps
    if share <= MOST:
        return None
    return (
        f"the gradient was clipped on {share:.0%} of the later steps (its norm is {curve[-1].gradient or 0:.2g}, the "
        f"clip {options.clip:g}) and the run has stopped learning: lower the learning rate, --lr "
        f"{options.rate / 3:.2g}, or take more rows a step, --batch {options.batch * 2}"
    )


def _oscillating(curve: Sequence[CurvePoint], options: TuneOptions) -> str | None:
    """Up and down again, each time by more than chance; rows differ in loss about as much as their mean loss is."""
    points = [(point.rows, point.loss) for point in curve if point.loss is not None]
    scale = sum(loss for _, loss in points) / max(1, len(points))
    swings: list[float] = []
    for (rows_before, before), (rows, loss) in pairwise(points):
        noise = math.sqrt(2 / max(1, rows - rows_before))
        if abs(loss - before) > scale * max(SWING, CHANCE * noise):
            swings.append(loss - before)
    turns = sum(a * b < 0 for a, b in pairwise(swings))
    if turns < 2:
        return None
    return (
        f"the loss swings up and down, by {max(map(abs, swings)):.2f} nats and more than chance: lower the learning "
        f"rate, --lr {options.rate / 3:.2g}, or take more rows a step, --batch {options.batch * 2}"
    )


def _plateau(curve: Sequence[CurvePoint], options: TuneOptions) -> str | None:
    losses = _stuck(curve, options)
    if losses is None:
        return None
    before, now = losses
    measured = any(point.dev is not None for point in curve)
    against = "and dev is not better than the start by more than chance" if measured else "or since the start"
    if now > before * (1 + SWING):
        return (
            f"the loss has risen over the last third ({before:.3f} to {now:.3f}) {against}: lower the learning rate, "
            f"--lr {options.rate / 3:.2g}"
        )
    kind = METHODS[options.method].multitask
    names = [name for name, method in usable().items() if method.multitask == kind]
    after = names[names.index(options.method) + 1 :][:1]
    ways = ["another --init", f"a higher --lr {options.rate * 3:.2g}", *(f"--method {name}" for name in after)]
    return f"the loss has not fallen over the last third ({before:.3f} to {now:.3f}) {against}: {_try(ways)}"


def _overfitting(curve: Sequence[CurvePoint], options: TuneOptions) -> str | None:
    measured = [point for point in curve if point.dev is not None]
    if len(measured) < 2:
        return None
    best, last = _best(measured), measured[-1]
    high, low = best.dev or 0.0, last.dev or 0.0
    then = _losses([point for point in curve if point.step >= best.step])
    if high - low <= NOISE * _error(best, options) or len(then) < 2 or then[-1] >= then[0]:
        return None
    fewer = f"--tokens {options.tokens // 2} (fewer places where the start has its own)"
    ways = [f"--steps {best.step}"] * (best.step > 0) + [fewer] * (options.tokens > 1)
    return (
        f"the loss falls while dev has fallen from {high:.3f} at step {best.step} to {low:.3f}: the "
        f"run learns its rows by heart; {_try([*ways, 'more training rows'])}"
    )


def _coarse(curve: Sequence[CurvePoint], options: TuneOptions) -> str | None:
    measured = [point for point in curve if point.dev is not None]
    if len(measured) < 2:
        return None
    best = _best(measured)
    shown, gain = NOISE * _error(best, options), (best.dev or 0.0) - (measured[0].dev or 0.0)
    if shown <= COARSE or gain > shown:
        return None
    can = "are too few to show any difference"
    if shown < 1:
        can = f"cannot show a difference below {100 * shown:.0f} points"
    return (
        f"dev has {_rows(best, options)} rows, which {can}, and the "
        f"best version is {100 * gain:.0f} points above the start: give the task more dev rows"
    )


def _try(ways: list[str]) -> str:
    *first, last = ways
    return f"try {', '.join(first)} or {last}" if first else f"try {last}"


def _stuck(curve: Sequence[CurvePoint], options: TuneOptions) -> tuple[float, float] | None:
    """Mean loss of the middle and the last third, where it has not fallen between them and the run has gained nothing.

    Of a run that is over: one under way may still get there.
    """
    if not curve or not _over(curve, options) or _better(curve, options):
        return None
    end = curve[-1].step
    middle = _losses([point for point in curve if end / 3 < point.step <= end * 2 / 3])
    last = _losses([point for point in curve if point.step > end * 2 / 3])
    if not middle or not last:
        return None
    before, now = sum(middle) / len(middle), sum(last) / len(last)
    return None if now < before * (1 - PROGRESS) else (before, now)


def _late(curve: Sequence[CurvePoint], options: TuneOptions) -> bool:
    """Half of the steps are done, or the run is over."""
    return bool(curve) and (curve[-1].step >= options.steps / 2 or _over(curve, options))


def _over(curve: Sequence[CurvePoint], options: TuneOptions) -> bool:
    """All steps are done, or its patience is at an end."""
    return options.ended(curve[-1].step, peak(curve))


def _better(curve: Sequence[CurvePoint], options: TuneOptions) -> bool:
    """Dev has gained more than one standard error; without dev, the loss has fallen."""
    measured = [point for point in curve if point.dev is not None]
    if measured:
        best = _best(measured)
        return (best.dev or 0.0) - (measured[0].dev or 0.0) > _error(best, options)
    losses = _losses(curve)
    return len(losses) > 1 and losses[-1] < losses[0] * (1 - PROGRESS)


def _best(measured: Sequence[CurvePoint]) -> CurvePoint:
    """The first of the best; the version that is kept may be a later one (`curves.keeps`)."""
    return max(measured, key=lambda point: point.dev or 0.0)


def _error(point: CurvePoint, options: TuneOptions) -> float:
    """Standard error of the difference of two measurements as good as `point`, as if of different rows.

    They are of the same rows, so the true one is smaller. Two right and two wrong rows are added (Agresti and Coull
    1998): an accuracy of 1 on few rows is no certainty.
    """
    rows = _rows(point, options)
    rate = (min(max(point.dev or 0.0, 0.0), 1.0) * rows + 2) / (rows + 4)
    return math.sqrt(2 * rate * (1 - rate) / rows)


def _rows(point: CurvePoint, options: TuneOptions) -> int:
    """Older runs did not write down how many there were; they were no more than asked for."""
    return max(1, point.dev_rows or options.dev_rows)


def _losses(points: Sequence[CurvePoint]) -> list[float]:
    return [point.loss for point in points if point.loss is not None]
