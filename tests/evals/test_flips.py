"""Whose answers flip, by a model that says what it is told to: counted by hand, tested by scipy."""

import random

import pytest
from scipy.stats import binomtest

from foreword.errors import ForewordError, UsageError
from foreword.evals import Flips, flips
from foreword.prompts import Output, Prompt
from heard import Heard
from scripted import A, B, Scripted, task


def test_flips_are_counted_and_tested_on_dev_alone() -> None:
    rng = random.Random(0)
    kinds = {
        ("good", "good", "bad"): "worse",
        ("good", "bad", "good"): "better",
        ("good", "bad", "odd"): "changed",
        ("good", "odd", "odd"): None,
        ("bad", "bad", "bad"): None,
    }
    rows = rng.choices(list(kinds), weights=[3, 9, 4, 5, 10], k=120)
    model, heard = Scripted(), Heard()
    found = flips(model, task(rows), A, B, ("p:1", "p:2"), heard)
    assert [(f.row.id, f.kind) for f in found.flips] == [
        (f"dev:{i}", kinds[row]) for i, row in enumerate(rows) if kinds[row]
    ]
    assert [(f.row.target, f.a, f.b) for f in found.flips] == [row for row in rows if kinds[row]]
    better, worse = (sum(kinds[row] == kind for row in rows) for kind in ("better", "worse"))
    assert found.difference.value == pytest.approx((better - worse) / 120)
    assert found.difference.p_value == pytest.approx(binomtest(better, better + worse).pvalue)
    assert found.b.value - found.a.value == pytest.approx(found.difference.value)
    assert not any("a=x" in text for text in model.asked), "the test rows stay closed"
    assert heard.stages == [("p:1: dev", 120, 120), ("p:2: dev", 120, 120)]
    document = found.to_json()
    assert document["counts"] == {"worse": worse, "better": better, "changed": rows.count(("good", "bad", "odd"))}
    assert document["split"] == "dev"
    assert document["flips"][0].keys() == {"row", "inputs", "target", "a", "b", "kind"}


def test_graded_answers_flip_where_their_scores_do() -> None:
    rows = [("a b c", "x", "b c"), ("a b c", "b c", "x"), ("red fox", "red", "fox"), ("red", "red", "the red")]
    found = flips(Scripted(), task(rows, "f1", None), A, B, ("p:1", "p:2"))
    assert [flip.kind for flip in found.flips] == ["better", "worse", "changed"], "articles do not count in F1"
    assert (found.graded, found.difference.test) == (True, "paired sign-flip permutation")


def test_what_cannot_be_measured_is_told_with_the_prompts_name() -> None:
    rows, names = task([("good", "good", "bad")]), ("p:1", "p:2")
    for second, error, said in (
        (Prompt("p", "b unfit {{ text }}"), ForewordError, "'p:2': this prompt does not run here"),
        (B.replace(output=Output(choices=("yes", "no"))), UsageError, "'p:2': prompt 'p' answers"),
        (Prompt("p", "b {{ title }}"), UsageError, "'p:2': dev:0: prompt 'p' needs the input 'title'"),
    ):
        with pytest.raises(error, match=said):
            flips(model := Scripted(), rows, A, second, names)
        assert not model.asked, "before either is measured"
    with pytest.raises(ForewordError, match="task 'toy' has no dev rows"):
        flips(Scripted(), task([]), A, B, names)
    assert isinstance(flips(Scripted(), rows, A, A, names), Flips)
