"""Multitask prompt tuning (Wang 2023): one prompt for all tasks, bent towards each by a product of low rank.

The prompt of task t is shared ⊙ (cols_t · rows_t), shared [P, D], cols_t [P, r], rows_t [r, D]. Here the shared prompt
is written as a start and what is learned on top of it, so that every task begins exactly at a start of its own; where
the starts are equal, this is the paper's formula. The paper's distillation from one prompt per task is left out.
"""

import torch
from torch import Tensor, nn

from foreword.backbone import Vectors
from foreword.tuning.methods.method import Start

RANK = 1
"""As in the paper."""


class Multitask(nn.Module):
    """P · D numbers and r · (P + D) for every task; each task has the same P.

    A task that is added to a finished run begins at its start plus what the run's tasks have learned together.
    """

    def __init__(self, *starts: Start, rank: int = RANK) -> None:
        super().__init__()
        P, D = starts[0].embeddings.shape
        self.starts: Tensor
        self.register_buffer("starts", torch.stack([start.embeddings for start in starts]))  # [T, P, D]
        self.shared = nn.Parameter(torch.zeros(P, D))
        self.cols = nn.ParameterList(_one_and(torch.randn(P, rank)) for _ in starts)
        self.rows = nn.ParameterList(_one_and(torch.zeros(D, rank)).T.contiguous() for _ in starts)

    def forward(self) -> tuple[Vectors, ...]:
        """Virtual tokens [P, D] of every task."""
        parts = zip(self.starts, self.cols, self.rows, strict=True)
        return tuple(Vectors(embeddings=(start + self.shared) * (cols @ rows)) for start, cols, rows in parts)


def _one_and(rest: Tensor) -> Tensor:
    """A first column of ones. The others begin by adding nothing, yet differ: equal ones would stay equal for ever."""
    return torch.cat([torch.ones(len(rest), 1), rest[:, 1:]], 1)
