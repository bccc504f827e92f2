"""Metrics against answers worked out by hand from the SQuAD evaluation's definition, and against their own symmetry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreword.tasks.metrics import METRICS


@pytest.mark.parametrize(
    ("prediction", "target", "accuracy", "exact_match", "f1"),
    [
        ("positive", "positive", 1, 1, 1),
        ("Positive.", "positive", 0, 1, 1),
        ("the  Eiffel-Tower!", "eiffeltower", 0, 1, 1),
        ("theatre", "atre", 0, 0, 0),  # "the" is an article only as a word
        ("a red red car", "red car", 0, 0, 0.8),  # as bags: precision 2/3, recall 1
        ("in 1066 by William", "William in 1066", 0, 0, 6 / 7),  # precision 3/4, recall 1
        ("blue", "", 0, 0, 0),
        ("the", "", 0, 1, 1),
    ],
)
def test_known_scores(prediction: str, target: str, accuracy: float, exact_match: float, f1: float) -> None:
    scores = {name: metric(prediction, target) for name, metric in METRICS.items()}
    assert scores == pytest.approx({"accuracy": accuracy, "exact_match": exact_match, "f1": f1})


words = st.lists(st.sampled_from(["a", "The", "cat", "cat!", "sat", "Sat", "7", "…", ""]), max_size=6).map(" ".join)


@given(words, words)
def test_bounds_symmetry_and_order(prediction: str, target: str) -> None:
    scores = [METRICS[name](prediction, target) for name in ("accuracy", "exact_match", "f1")]
    assert scores == sorted(scores)  # each is more lenient than the one before
    assert 0 <= scores[0] <= scores[-1] <= 1
    assert scores == [METRICS[name](target, prediction) for name in ("accuracy", "exact_match", "f1")]
