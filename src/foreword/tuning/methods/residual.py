"""Residual prompt tuning (Razdaibiedina 2023): the virtual tokens, and a narrow network added to each of them.

Linear, ReLU, Linear and a skip connection, the same network for every token; folded in afterwards. The paper's layer
norm is left out: numbers go in and come out at the scale of the start's, and what is added begins at nothing.
"""

from torch import Tensor, nn

from foreword.backbone import Vectors
from foreword.tuning.methods.method import Start, zeroed

WIDTH = 128
"""The network's bottleneck, between the 10 and 400 of the paper's table 7."""


class Residual(nn.Module):
    """P · D numbers and 2 · D · WIDTH of the network. Its last layer begins at zero: nothing is added yet."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        D = start.embeddings.shape[1]
        self.scale: Tensor
        self.tokens = nn.Parameter(start.embeddings.clone())
        self.register_buffer("scale", start.embeddings.std())
        self.down, self.up = nn.Linear(D, WIDTH), zeroed(nn.Linear(WIDTH, D))

    def forward(self) -> Vectors:
        """Virtual tokens [P, D]."""
        added = self.up(nn.functional.relu(self.down(self.tokens / self.scale)))
        return Vectors(embeddings=self.tokens + self.scale * added)
