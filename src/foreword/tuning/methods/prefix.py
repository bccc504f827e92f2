"""Prefix tuning (Li and Liang 2021): keys and values of P virtual tokens in every layer.

Plain, they are the parameters. Reparameterised, an MLP shared by all tokens makes what is added to their start; it is
dropped afterwards. They begin at the keys and values that the model itself computes for a text, unless told otherwise.
"""

import torch
from torch import Tensor, nn

from foreword.backbone import Vectors
from foreword.tuning.methods.method import Start, zeroed

WIDTH = 512
"""Of the reparameterisation's hidden layer, as in the paper's code for GPT-2."""


class Prefix(nn.Module):
    """2 · L · H · P · head_dim numbers."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        assert start.prefix is not None
        self.keys, self.values = (nn.Parameter(tensor.clone()) for tensor in start.prefix)

    def forward(self) -> Vectors:
        """Keys and values [L, H, P, head_dim]."""
        return Vectors(keys=self.keys, values=self.values)


class PrefixMLP(nn.Module):
    """P · D + D · WIDTH + WIDTH · 2 · L · H · head_dim numbers and biases."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        assert start.prefix is not None
        begin = torch.stack(start.prefix)  # [2, L, H, P, head_dim]
        spread = begin.std((2, 3, 4), keepdim=True)
        self.begin: Tensor
        self.register_buffer("begin", begin)
        self.register_buffer("scale", torch.where(spread > 0, spread, torch.ones_like(spread)))
        self.inputs = nn.Parameter(start.embeddings / start.embeddings.std())
        D, out = start.embeddings.shape[1], begin.numel() // begin.shape[3]
        self.network = nn.Sequential(nn.Linear(D, WIDTH), nn.Tanh(), zeroed(nn.Linear(WIDTH, out)))

    def forward(self) -> Vectors:
        """Keys and values [L, H, P, head_dim]."""
        two, L, H, P, size = self.begin.shape
        added = self.network(self.inputs).view(P, two, L, H, size).permute(1, 2, 3, 0, 4)
        keys, values = self.begin + self.scale * added
        return Vectors(keys=keys, values=values)
