"""Prompt tuning (Lester 2021): the virtual tokens themselves are the parameters."""

from torch import nn

from foreword.backbone import Vectors
from foreword.tuning.methods.method import Start


class Embedding(nn.Module):
    """P · D numbers."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.tokens = nn.Parameter(start.embeddings.clone())

    def forward(self) -> Vectors:
        """Virtual tokens [P, D]."""
        return Vectors(embeddings=self.tokens)
