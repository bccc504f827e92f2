"""Which rows a step reads, and which of their many choices."""

from collections import Counter

import numpy as np

from foreword.backbone import Example
from foreword.tuning.rows import SAMPLED_NEGATIVES, TrainingRows

NOTHING = np.zeros(0, dtype=np.int64)


def rows(choices: int) -> TrainingRows:
    """Ten rows; the target of each is the choice with its own number, counted round where there are fewer."""
    answers = tuple((100 + choice, 7) for choice in range(choices))
    examples = [Example(np.array([row, 5]), answers) for row in range(10)]
    return TrainingRows(NOTHING, examples, [row % choices for row in range(10)], 2)


def test_of_many_choices_a_step_draws_some_evenly_and_always_the_right_one() -> None:
    given, met = rows(77), Counter[int]()
    for step in range(1_000):
        for example, right in zip(*given.batch(step, 4, seed=0), strict=True):
            drawn = [answer[0] - 100 for answer in example.answers]
            assert drawn[right] == example.question[0]
            assert len(set(drawn)) == len(drawn) == SAMPLED_NEGATIVES + 1
            met.update(drawn[:right] + drawn[right + 1 :])
    assert set(met) == set(range(77))
    never_right = [met[choice] for choice in range(10, 77)]
    assert max(never_right) < 1.4 * min(never_right)
    first, again = (given.batch(3, 4, seed=0) for _ in range(2))
    assert [e.answers for e in first[0]] == [e.answers for e in again[0]], "a resumed run must draw what it drew"


def test_few_choices_stay_as_they_are() -> None:
    for example, right in zip(*rows(SAMPLED_NEGATIVES + 1).batch(0, 4, seed=0), strict=True):
        assert len(example.answers) == SAMPLED_NEGATIVES + 1
        assert right == example.question[0] % (SAMPLED_NEGATIVES + 1)
