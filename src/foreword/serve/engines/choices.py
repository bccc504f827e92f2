"""From how likely each choice is to the one that is answered. Knows no model."""

from collections.abc import Sequence

import numpy as np

from foreword.backbone.answer import Answer
from foreword.backbone.backbone import Scores
from foreword.serve.engines.prepare import Prepared


def chosen(prepared: Prepared, answers: Sequence[Sequence[int]], log_likelihoods: Sequence[float]) -> Answer:
    """The answer to a row, by the tokens of every choice and its log-likelihood in nats."""
    output, length = prepared.request.prompt.output, len(prepared.ids)
    assert output.choices is not None
    lengths = np.array([[len(answer) for answer in answers]])
    scores = Scores(np.array([log_likelihoods]), lengths, np.array([length]))
    text = output.choices[scores.choose(output.log_prior)[0]]
    shares = scores.probabilities(output.log_prior)[0].tolist()
    return Answer(text, text, tuple(log_likelihoods), length, 0, tuple(shares))
