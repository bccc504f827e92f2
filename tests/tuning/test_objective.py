"""The loss of a batch against the same sums written out by hand."""

import math

import numpy as np
import torch

from foreword.backbone import Example
from foreword.tuning.objective import mean_loss

Q = np.array([1])


def test_one_answer_is_the_mean_over_tokens() -> None:
    found = mean_loss(torch.tensor([-1.0, -2.0, -6.0]), [Example(Q, ((1, 2),)), Example(Q, ((3,),))], [0, 0])
    assert found.item() == 3.0


def test_choices_compete_by_likelihood_or_per_token_where_lengths_differ() -> None:
    examples = [Example(Q, ((1,), (2,))), Example(Q, ((1, 2), (3,)))]
    found = mean_loss(torch.tensor([-1.0, -2.0, -1.0, -3.0, -0.5]), examples, [1, 0])
    first = -(-2.0 - math.log(math.exp(-1.0) + math.exp(-2.0)))
    second = -(-2.0 - math.log(math.exp(-2.0) + math.exp(-0.5)))
    assert math.isclose(found.item(), (first + second) / 2, rel_tol=1e-6)
