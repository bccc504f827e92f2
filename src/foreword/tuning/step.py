"""What every step of training obeys, whatever is trained: a schedule, an average, finite numbers. Knows no loop."""

import math

from foreword.errors import ForewordError

AVERAGE = 0.95
"""Of the running average over the steps, which is what is measured, kept and served: it does better than the last
step's numbers, most of all early on (Polyak and Juditsky 1992)."""


class DivergedError(ForewordError):
    """The loss or its gradient is not finite; nothing was updated."""


def check_finite(loss: float, norm: float, step: int) -> None:
    """Raises DivergedError, before anything is moved, where the loss or the gradient's norm is not finite."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise DivergedError(f"the loss is {loss} and the gradient's norm {norm} at step {step}")


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine down to a tenth."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    along = (step - rising) / max(1, steps - rising)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * along))


def newest(steps: int) -> float:
    """The share of the newest of `steps` in the running average; a short run forgets its start sooner."""
    return max(1 - AVERAGE, 1 / (0.3 * steps + 1))
