"""When a version may take another's place: by a model that says what it is told to, and once by a real one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from foreword.errors import ForewordError
from foreword.evals import gate
from foreword.prompts import Prompt
from scripted import A, B, Scripted, task

ROWS = {"both": ("good", "good", "good"), "worse": ("good", "good", "bad"), "better": ("good", "bad", "good")}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
def test_it_refuses_what_is_worse_and_nothing_else(worse: int, better: int, both: int) -> None:
    rows = [ROWS["both"]] * (both + 1) + [ROWS["worse"]] * worse + [ROWS["better"]] * better
    model = Scripted()
    found = gate(model, task(rows), B, A, ("p:2", "p:1"))
    p_value = binomtest(worse, worse + better).pvalue if worse + better else 1.0
    if worse <= better or (p_value > 0.1 and len(rows) >= 30):
        assert found.passed
    elif p_value < 0.01 and len(rows) >= 30:  # the interval and the exact test differ a little at the edge
        assert not found.passed
    assert found.against is not None
    assert found.passed == (found.against.difference.high >= 0)
    assert found.new.value == pytest.approx((both + 1 + better) / len(rows))
    assert not any("a=x" in text for text in model.asked), "the test rows stay closed"


def test_both_numbers_are_told_whichever_way_it_goes() -> None:
    rows = task([ROWS["worse"]] * 12 + [ROWS["better"]] * 2 + [ROWS["both"]] * 66)
    found = gate(Scripted(), rows, B, A, ("p:2", "p:1"))
    assert str(found) == (
        "accuracy 85.0 % (75.6 to 91.2) on 80 dev rows of toy, before 97.5 %: a difference of −12.5 points "
        "(95 % interval −22.2 to −3.5, p = 0.013), 2 rows better and 12 worse."
    )
    assert found.to_json()["difference"]["high"] < 0
    assert len(found.to_json()["flips"]) == 14
    graded = gate(Scripted(), task([("x y", "x", "y")] * 3, "f1", None), B, A, ("p:2", "p:1"))
    assert str(graded).startswith(
        "F1 0.667 (0.667 to 0.667) on 3 dev rows of toy, before 0.667: a difference of 0.000 ("
    )


def test_the_first_version_passes_with_its_score() -> None:
    found = gate(Scripted(), task([ROWS["worse"]] * 3 + [ROWS["both"]]), B, None, ("p:1", "none"))
    assert found.passed
    assert (found.new.value, found.to_json()["difference"], found.to_json()["old"]) == (0.25, None, None)
    assert str(found).endswith("on 4 dev rows of toy; there is nothing to compare it with yet.")


def test_both_are_checked_before_either_is_measured() -> None:
    model = Scripted()
    with pytest.raises(ForewordError, match="'p:1': this prompt does not run here"):
        gate(model, task([ROWS["both"]]), B, Prompt("p", "a unfit {{ text }}"), ("p:2", "p:1"))
    with pytest.raises(ForewordError, match="no dev rows"):
        gate(model, task([]), B, A, ("p:2", "p:1"))
    assert not model.asked
