"""What a step wants less of. Knows log-probabilities of answer tokens; knows no model and no encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foreword.backbone import Example


def weight(examples: Sequence[Example]) -> int:
    """What the mean of `mean_loss` is taken over: answer tokens, or rows where answers compete."""
    if all(len(example.answers) == 1 for example in examples):
        return sum(len(example.answers[0]) for example in examples)
    return len(examples)


def mean_loss(log_probs: Tensor, examples: Sequence[Example], right: Sequence[int]) -> Tensor:
    """Loss over a batch, nats; `log_probs` [A] are those of `Backbone.log_probs`, `right` [B] the targets' places.

    Rows with one answer: mean negative log-likelihood per answer token, as language models are trained. Rows with
    several: cross-entropy over the answers, each weighed by its whole likelihood, or by its mean per token where the
    answers differ in length, which is how an answer is chosen afterwards.
    """
    if all(len(example.answers) == 1 for example in examples):
        return -log_probs.mean()
    lengths = [len(answer) for example in examples for answer in example.answers]
    sums = torch.stack([part.sum() for part in log_probs.split(lengths)])
    means = sums / torch.tensor(lengths, dtype=sums.dtype, device=sums.device)
    losses = []
    start = 0
    for example, target in zip(examples, right, strict=True):
        answers = slice(start, start + len(example.answers))
        even = len(set(lengths[answers])) == 1
        losses.append(-torch.log_softmax((sums if even else means)[answers], 0)[target])
        start = answers.stop
    return torch.stack(losses).mean()
