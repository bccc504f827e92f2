"""Decomposed prompt tuning, DePT (Shi and Lipani 2024): virtual tokens, and a low-rank offset to the text's embeddings.

The offset of a prompt's s-th text token is row s of A · B, A [S, RANK] and B [RANK, D]: a shorter soft prompt reads
faster, and what it lacks is added to the words that are read anyway.
"""

import torch
from torch import nn

from foreword.backbone import Vectors
from foreword.tuning.methods.method import Start

RANK = 8
LONGEST = 256
"""Text tokens that have an offset at most, as in the paper."""
SHARE = 0.1
"""Offsets move this much slower than virtual tokens: the paper gives them a smaller learning rate."""


class Decomposed(nn.Module):
    """P · D + RANK · (S + D) numbers, S the tokens of the longest training row. B begins at zero."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        D = start.embeddings.shape[1]
        self.tokens = nn.Parameter(start.embeddings.clone())
        self.a = nn.Parameter(torch.randn(min(start.longest, LONGEST), RANK))
        self.b = nn.Parameter(torch.zeros(RANK, D))

    def forward(self) -> Vectors:
        """Virtual tokens [P, D] and offsets [S, D]."""
        return Vectors(embeddings=self.tokens, offsets=SHARE * self.a @ self.b)
