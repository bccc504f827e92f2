"""Confidence intervals and paired tests for scores per row. Knows numbers; knows no strategies.

Strategies are measured on the same rows, so every comparison here is paired. Scores are 0 or 1 (right or wrong) or
graded; what suits each is chosen from the scores themselves. Everything random is seeded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from foreword.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 9_999
"""The number of bootstrap resamples and of random sign flips; a permutation's smallest p-value is 1 / 10,000."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence limits, in the units of the score."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Mean of `a` minus mean of `b` over the same rows, with a 95 % interval and a two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float
    test: str


def is_right_or_wrong(scores: Sequence[float]) -> bool:
    """Return whether every score is exactly 0 or 1."""
    return all(score in (0, 1) for score in scores)


def score_interval(scores: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean score with its 95 % interval: Wilson if every score is 0 or 1, else bootstrapped."""
    if is_right_or_wrong(scores):
        return wilson(round(sum(scores)), len(scores))
    return bootstrap_mean(scores, seed=seed)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return the score interval for a proportion (Wilson 1927): never empty, within 0 to 1, good for small n too.

    Raises UsageError unless 0 <= successes <= n and n >= 1.
    """
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"a proportion of {successes!r} in {n!r} rows is not possible; give at least one scored row")
    z = _z(level)
    share, shrink = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the limit equals the share itself; rounding must not push it past.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def bootstrap_mean(scores: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of a mean (Efron 1979). It is too narrow below some 30 rows."""
    values = _vector(scores)
    low, high = _bootstrap(values, level, seed)
    return Interval(float(values.mean()), low, high)


def mcnemar_exact(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the two-sided exact p-value that `a` and `b` (0 or 1 per row) are right equally often (McNemar 1947).

    Only rows that one has right and the other wrong carry evidence: under the null each falls either way like a coin.
    """
    from scipy.special import bdtr

    _, a_only, b_only, _ = _fourfold(a, b)
    discordant = a_only + b_only
    return min(1.0, 2 * float(bdtr(min(a_only, b_only), discordant, 0.5))) if discordant else 1.0


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Difference:
    """Test how much better `a` is than `b`; both hold one score per row, for the same rows in the same order.

    Scores of 0 or 1 get the exact McNemar test and the interval of Newcombe (1998, Statistics in Medicine 17:2635,
    method 10). Graded scores get a sign-flip permutation test and a paired bootstrap interval. Raises UsageError if the
    lengths differ.
    """
    if len(a) != len(b):
        raise UsageError(f"paired scores must cover the same rows, not {len(a)} and {len(b)}")
    if is_right_or_wrong(a) and is_right_or_wrong(b):
        interval = _newcombe(*_fourfold(a, b))
        return Difference(interval.value, interval.low, interval.high, mcnemar_exact(a, b), "exact McNemar")
    gaps = _vector(a) - _vector(b)
    low, high = _bootstrap(gaps, 0.95, seed)
    return Difference(float(gaps.mean()), low, high, _sign_flip(gaps, seed), "paired sign-flip permutation")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979), in the order given: each may be read against the usual level."""
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def smallest_difference(n: int, accuracy: float, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest accuracy difference that `n` paired rows show with probability `power`, as a share.

    This is Connor's (1987) sample size for McNemar's test, solved for the difference (0.04 is 4 points). It assumes
    that the two strategies err independently of each other, with accuracies a = `accuracy` and b = a ± d on the roomier
    side, so that a share a(1 - b) + b(1 - a) of the rows is discordant. Real strategies mostly err on the same rows, so
    they show somewhat smaller differences. The result is 1.0 if `n` is too small to show any. Raises UsageError if `n`
    is less than 1 or `accuracy` is not from 0 to 1.
    """
    if n < 1 or not 0 <= accuracy <= 1:
        raise UsageError(f"expected at least one row and an accuracy from 0 to 1, not {n!r} and {accuracy!r}")
    z_level, z_power = _z(level), NormalDist().inv_cdf(power)
    room = max(accuracy, 1 - accuracy)

    def is_detectable(d: float) -> bool:
        other = room - d  # by symmetry, accuracies of at least one half that fall
        discordant = room * (1 - other) + other * (1 - room)
        spread = max(0.0, discordant - d * d)
        return d * math.sqrt(n) >= z_level * math.sqrt(discordant) + z_power * math.sqrt(spread)

    if not is_detectable(room):
        return 1.0
    low, high = 0.0, room
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if is_detectable(middle) else (middle, high)
    return high


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _vector(scores: Sequence[float]) -> "NDArray[np.float64]":
    import numpy as np

    if not len(scores):
        raise UsageError("there are no scores; give at least one scored row")
    return np.asarray(scores, dtype=np.float64)


def _bootstrap(values: "NDArray[np.float64]", level: float, seed: int) -> tuple[float, float]:
    import numpy as np

    rng = np.random.default_rng(seed)
    # The draws are one [resamples, n] table, made in pieces so that memory stays bounded.
    piece = max(1, 2_000_000 // len(values))
    means = [
        values[rng.integers(len(values), size=(min(piece, RESAMPLES - start), len(values)))].mean(axis=1)
        for start in range(0, RESAMPLES, piece)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _sign_flip(gaps: "NDArray[np.float64]", seed: int) -> float:
    """Return the two-sided p of the mean gap if every row's sign is a coin: all flips of up to 13 gaps, else random."""
    import numpy as np

    gaps = gaps[gaps != 0]
    if not len(gaps):
        return 1.0
    # Sums that differ by rounding alone count as equal.
    bar = abs(gaps.sum()) * (1 - 1e-12) - 1e-12 * np.abs(gaps).max()
    if 2 ** len(gaps) <= RESAMPLES:
        bits = np.arange(2 ** len(gaps))[:, None] >> np.arange(len(gaps)) & 1
        return float(np.mean(np.abs((2 * bits - 1) @ gaps) >= bar))
    rng, piece, as_far = np.random.default_rng(seed), max(1, 2_000_000 // len(gaps)), 0
    for start in range(0, RESAMPLES, piece):
        signs = rng.integers(2, size=(min(piece, RESAMPLES - start), len(gaps)), dtype=np.int8) * 2 - 1
        as_far += int(np.sum(np.abs(signs @ gaps) >= bar))
    # The observed arrangement is one of the possible ones (Phipson & Smyth 2010), so p is never zero.
    return (as_far + 1) / (RESAMPLES + 1)


def _fourfold(a: Sequence[float], b: Sequence[float]) -> tuple[int, int, int, int]:
    """Count the rows that both have right, a only, b only, neither."""
    if len(a) != len(b) or not len(a):
        raise UsageError(f"paired scores must cover the same rows, at least one, not {len(a)} and {len(b)}")
    pairs = [(bool(x), bool(y)) for x, y in zip(a, b, strict=True)]
    both, a_only, b_only = (pairs.count(pair) for pair in ((True, True), (True, False), (False, True)))
    return both, a_only, b_only, len(pairs) - both - a_only - b_only


def _newcombe(both: int, a_only: int, b_only: int, neither: int) -> Interval:
    """Square-and-add from the two Wilson intervals, less what the correlation phi of the pairs takes off."""
    n = both + a_only + b_only + neither
    a, b = wilson(both + a_only, n), wilson(both + b_only, n)
    product = (both + a_only) * (b_only + neither) * (both + b_only) * (a_only + neither)
    cross = float(both * neither - a_only * b_only)
    if cross > 0:  # Newcombe's continuity correction, which only ever weakens a positive correlation
        cross = max(cross - n / 2, 0.0)
    phi = cross / math.sqrt(product) if product else 0.0

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    value = (a_only - b_only) / n
    down, up = reach(a.value - a.low, b.high - b.value), reach(a.high - a.value, b.value - b.low)
    return Interval(value, value - down, value + up)
