"""Statistics against published numbers, scipy, brute force and known properties."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from foreword.errors import UsageError
from foreword.evals.statistics import (
    bootstrap_mean,
    holm,
    mcnemar_exact,
    paired_difference,
    smallest_difference,
    wilson,
)


def pairs(both: int, a_only: int, b_only: int, neither: int) -> tuple[list[float], list[float]]:
    """Scores of two strategies that make this fourfold table."""
    table = [(1.0, 1.0)] * both + [(1.0, 0.0)] * a_only + [(0.0, 1.0)] * b_only + [(0.0, 0.0)] * neither
    return [a for a, _ in table], [b for _, b in table]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_limits(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    interval = wilson(successes, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


@settings(deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_wilson_agrees_with_scipy_and_holds_its_share(case: tuple[int, int], level: float) -> None:
    successes, n = case
    interval = wilson(successes, n, level)
    theirs = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert math.isclose(interval.low, theirs.low, abs_tol=1e-9)
    assert math.isclose(interval.high, theirs.high, abs_tol=1e-9)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_mcnemar_gives_the_published_p_value() -> None:
    """Two media for culturing the tubercle bacillus: Armitage & Berry 1994, p. 127, exact two-sided P = 0.0129."""
    assert round(mcnemar_exact(*pairs(20, 12, 2, 16)), 4) == 0.0129


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_binomial_test_on_the_discordant_rows(a_only: int, b_only: int) -> None:
    expected = stats.binomtest(a_only, a_only + b_only).pvalue if a_only + b_only else 1.0
    assert math.isclose(mcnemar_exact(*pairs(3, a_only, b_only, 4)), expected, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17:2635, method 10
        ((54, 0, 0, 0), -0.0664, 0.0664),  # the same: no discordant row still leaves an interval
        ((1, 1, 7, 12), -0.507, -0.026),  # Bentur et al. 2009, in Fagerland, Lydersen & Laake 2014
    ],
)
def test_right_or_wrong_difference_gives_newcombes_published_limits(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    found = paired_difference(*pairs(*table))
    digits = 4 if low != -0.507 else 3
    assert (round(found.low, digits), round(found.high, digits)) == (low, high)
    assert found.test == "exact McNemar"


def test_newcombes_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    shares, n = np.array([0.60, 0.17, 0.09, 0.14]), 120
    tables = rng.multinomial(n, shares, size=600)
    found = [paired_difference(*pairs(*map(int, table))) for table in tables]
    covered = np.mean([d.low <= 0.08 <= d.high for d in found])
    assert 0.925 <= covered <= 0.98


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_paired_difference_only_changes_sign_when_turned_round(rows: list[tuple[bool, bool]]) -> None:
    a, b = [float(x) for x, _ in rows], [float(y) for _, y in rows]
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.p_value == back.p_value
    assert np.allclose([there.value, there.low, there.high], [-back.value, -back.high, -back.low])
    assert -1 <= there.low <= there.value <= there.high <= 1


def test_bootstrap_agrees_with_scipy() -> None:
    scores = np.random.default_rng(1).beta(2, 1, 400)
    ours = bootstrap_mean(list(scores), seed=3)
    theirs = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=9999, rng=4).confidence_interval
    assert ours.value == pytest.approx(scores.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert ours == bootstrap_mean(list(scores), seed=3)
    assert ours != bootstrap_mean(list(scores), seed=4)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([-0.75, -0.5, 0.0, 0.1, 0.2, 0.3, 0.6]), min_size=1, max_size=8))
def test_sign_flips_of_a_few_rows_are_all_tried(gaps: list[float]) -> None:
    """Against every sign flip, spelled out."""
    flips = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True))) for signs in _signs(len(gaps))]
    expected = sum(flip >= abs(sum(gaps)) - 1e-9 for flip in flips) / len(flips)
    found = paired_difference([0.875 + gap for gap in gaps], [0.875] * len(gaps))
    assert found.p_value == pytest.approx(expected)
    assert found.test == "paired sign-flip permutation"


def _signs(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))


def test_graded_difference_of_many_rows_agrees_with_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    b = rng.uniform(size=300)
    a = b + rng.normal(0.02, 0.2, 300)
    found, theirs = paired_difference(list(a), list(b)), stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    limits = theirs.confidence_interval()
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high), abs=0.003)
    assert paired_difference(list(b + 0.5), list(b)).p_value == 1 / 10_000


def test_holm_gives_the_textbook_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values: list[float]) -> None:
    """Each adjusted p is the largest Bonferroni p among all sets of hypotheses that hold it (Marcus et al. 1976)."""
    indices = range(len(p_values))
    sets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)]
    expected = [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s) for i in indices]
    assert holm(p_values) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "accuracy"), [(200, 0.5), (500, 0.8), (1000, 0.9)])
def test_the_smallest_difference_is_shown_with_the_promised_power(n: int, accuracy: float) -> None:
    """Power of the exact test, summed over every possible outcome of independent errors."""
    d = smallest_difference(n, accuracy)
    lower = accuracy - d
    a_only, b_only = accuracy * (1 - lower), lower * (1 - accuracy)
    counts = np.arange(1, n + 1)
    power = 0.0
    for m, chance in zip(counts, stats.binom.pmf(counts, n, a_only + b_only), strict=True):
        if chance > 1e-9:
            k = np.arange(m + 1)
            rejected = 2 * np.minimum(stats.binom.cdf(k, m, 0.5), stats.binom.sf(k - 1, m, 0.5)) < 0.05
            power += chance * stats.binom.pmf(k, m, a_only / (a_only + b_only))[rejected].sum()
    assert 0.75 <= power <= 0.82  # the exact test is a little weaker than the formula


def test_the_smallest_difference_shrinks_with_rows_and_knows_when_there_are_too_few() -> None:
    assert smallest_difference(4, 0.9) == 1.0
    found = [smallest_difference(n, 0.9) for n in (20, 100, 1000, 10_000)]
    assert found == sorted(found, reverse=True)
    assert smallest_difference(500, 0.3) == pytest.approx(smallest_difference(500, 0.7))


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(UsageError, match="same rows, not 2 and 1"):
        paired_difference([1, 0], [1])
    with pytest.raises(UsageError, match="at least one"):
        wilson(0, 0)
    with pytest.raises(UsageError, match="at least one"):
        bootstrap_mean([])
