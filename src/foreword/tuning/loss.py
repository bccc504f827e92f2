"""A step's loss and its gradient, in pieces that memory can hold. Knows rows and the backbone; knows no encoder.

A step reads a batch of every task, all of them in one pass; its loss is the mean of the tasks' mean losses.

Rows that are long go through in pieces whose gradients add up to the whole's. Where memory runs out all the same, the
step begins again with pieces half as large, and at last with activation checkpointing: the run goes on, slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foreword.backbone import Backbone, Example, Vectors, batches
from foreword.errors import ForewordError
from foreword.tuning.methods import flat
from foreword.tuning.rows import Batch, TrainingRows

STEP_TOKENS = 4_096
"""Tokens of padded rows that go through the backbone at once, to begin with."""


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


def weight(examples: Sequence[Example]) -> int:
    """What the mean of `mean_loss` is taken over: answer tokens, or rows where one of several answers is chosen."""
    if all(len(example.answers) == 1 for example in examples):
        return sum(len(example.answers[0]) for example in examples)
    return len(examples)


@dataclass
class Accumulator:
    """Adds gradients up in the vectors that a step is given."""

    backbone: Backbone
    rows: Sequence[TrainingRows]
    """Of every task."""
    tokens: int = field(default_factory=lambda: STEP_TOKENS)
    notes: list[str] = field(default_factory=list)
    """What had to be done for want of memory."""

    def loss(self, vectors: Sequence[Vectors], given: Sequence[Batch], leaves: Sequence[Tensor] = ()) -> float:
        """The loss over the tasks' batches, nats; its gradient is added up in their `vectors`, or in the `leaves` that
        are trained.

        Raises ForewordError where one row alone is too much.
        """
        while True:
            try:
                return self._pieces(vectors, given)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _no_memory(error):
                    raise
            for leaf in leaves or [tensor for one in vectors for tensor in flat(one).values()]:
                leaf.grad = None  # what the pieces before have left
            self.backbone.clear_prefix_cache()
            self._shrink(max(len(example) for examples, _ in given for example in examples))

    def _pieces(self, vectors: Sequence[Vectors], given: Sequence[Batch]) -> float:
        whole, loss = [weight(examples) for examples, _ in given], 0.0
        rows = [(task, i) for task, (examples, _) in enumerate(given) for i in range(len(examples))]
        prefix_tokens = max(len(one.shared_prefix) for one in self.rows)
        for piece in batches([given[task][0][i] for task, i in rows], self.tokens, prefix_tokens):
            members: dict[int, Batch] = {}
            for task, i in (rows[row] for row in piece):
                examples, right = members.setdefault(task, ([], []))
                examples.append(given[task][0][i])
                right.append(given[task][1][i])
            parts = [
                self.backbone.part(examples, self.rows[t].shared_prefix, vectors[t])
                for t, (examples, _) in members.items()
            ]
            sizes = [sum(len(answer) for example in part.examples for answer in example.answers) for part in parts]
            log_probs = self.backbone.log_probs_mixed(parts).split(sizes)
            losses = [
                mean_loss(found, *batch) * (weight(batch[0]) / whole[task] / len(given))
                for found, (task, batch) in zip(log_probs, members.items(), strict=True)
            ]
            part = torch.stack(losses).sum()
            part.backward()
            loss += part.item()
        return loss

    def _shrink(self, longest: int) -> None:
        if self.tokens > longest:
            self.tokens //= 2
            self.notes.append(f"memory ran out: rows now go through in pieces of {self.tokens:,} tokens")
        elif self.backbone.architecture.checkpoint_activations():
            self.notes.append(
                "memory ran out for one row: activation checkpointing is on from now on, which takes half as long again"
            )
        else:
            raise ForewordError(
                f"memory does not hold one row of {longest:,} tokens; shorten the rows, or take a smaller backbone"
            )


def _no_memory(error: Exception) -> bool:
    """Also as a CPU's allocator, cuBLAS and a GPU's driver say it."""
    told = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in told)
