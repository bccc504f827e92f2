"""A batch's loss and gradient, in pieces that memory can hold. Knows rows and the backbone; knows no encoder.

Rows that are long go through in pieces whose gradients add up to the whole's. Where memory runs out all the same, the
step begins again with pieces half as large, and at last with layers computed twice: the run goes on, slower.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foreword.backbone import Backbone, Example, Vectors
from foreword.backbone.batch import batches
from foreword.errors import ForewordError
from foreword.tuning.objective import mean_loss, weight
from foreword.tuning.rows import TrainingRows

STEP_TOKENS = 4_096
"""Tokens of padded rows that go through the backbone at once, to begin with."""


@dataclass
class Accumulator:
    """Adds gradients up in the vectors that a step is given."""

    backbone: Backbone
    rows: TrainingRows
    tokens: int = field(default_factory=lambda: STEP_TOKENS)
    notes: list[str] = field(default_factory=list)
    """What had to be done for want of memory."""

    def loss(
        self, vectors: Vectors, examples: Sequence[Example], right: Sequence[int], leaves: Sequence[Tensor] = ()
    ) -> float:
        """The batch's mean loss, nats; its gradient is added up in `vectors`, or in the `leaves` that are trained.

        Raises ForewordError where one row alone is too much.
        """
        while True:
            try:
                return self._pieces(vectors, examples, right)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _no_memory(error):
                    raise
            for leaf in leaves or [tensor for tensor in vars(vectors).values() if tensor is not None]:
                leaf.grad = None  # what the pieces before have left
            self._shrink(max(map(len, examples)))

    def _pieces(self, vectors: Vectors, examples: Sequence[Example], right: Sequence[int]) -> float:
        whole, loss = weight(examples), 0.0
        for piece in batches(examples, self.tokens):
            rows = [examples[i] for i in piece]
            log_probs = self.backbone.log_probs(rows, self.rows.front, vectors)
            part = mean_loss(log_probs, rows, [right[i] for i in piece]) * (weight(rows) / whole)
            part.backward()
            loss += part.item()
        return loss

    def _shrink(self, longest: int) -> None:
        if self.tokens > longest:
            self.tokens //= 2
            self.notes.append(f"memory ran out: rows now go through in pieces of {self.tokens:,} tokens")
        elif self.backbone.architecture.save_memory():
            self.notes.append(
                "memory ran out for one row: layers are now computed twice, which takes half as long again"
            )
        else:
            raise ForewordError(
                f"memory does not hold one row of {longest:,} tokens; shorten the rows, or take a smaller backbone"
            )


def _no_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
