"""Prompt encoders: small trainable modules that make the virtual tokens. Know vectors; know no model, rows or loop.

Each begins exactly at the vectors that it is given, so tuning never starts behind its start.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """Prompt tuning (Lester 2021): the virtual tokens themselves are the parameters."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """Virtual tokens [P, D] fp32."""
        return self.tokens


class MLP(nn.Module):
    """P-tuning (Liu 2021) with an MLP over one learned embedding per virtual token, added to the start.

    The last layer begins at zero: the first virtual tokens are the start itself, where PEFT's begin at random.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        D = start.shape[1]
        self.register_buffer("start", start.clone())
        self.inputs = nn.Parameter(start / start.std())
        self.layers = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D))
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]
        self.register_buffer("scale", start.std())

    def forward(self) -> Tensor:
        """Virtual tokens [P, D] fp32."""
        moved: Tensor = self.start + self.scale * self.layers(self.inputs)
        return moved


@dataclass(frozen=True)
class Method:
    """A way to learn a soft prompt, with the learning rate that suits it."""

    encoder: Callable[[Tensor], nn.Module]
    learning_rate: float
    summary: str


METHODS = {
    "prompt-tuning": Method(Embedding, 1e-2, "learns the virtual tokens themselves; the fewest parameters"),
    "p-tuning": Method(MLP, 1e-3, "learns an MLP that makes them; looked up afterwards, so it costs nothing to serve"),
}


def count(encoder: nn.Module) -> int:
    """Trained parameters."""
    return sum(p.numel() for p in encoder.parameters() if p.requires_grad)


def virtual_tokens(encoder: nn.Module) -> Tensor:
    """What goes into the prompt table: the encoder's output [P, D] fp32, on the CPU."""
    with torch.no_grad():
        tokens: Tensor = encoder()
    return tokens.detach().float().cpu().clone()
