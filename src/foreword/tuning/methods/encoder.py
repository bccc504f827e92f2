"""The seam of all methods: a small trainable module that makes a prompt's vectors. Knows no model, rows or loop.

An encoder begins exactly at the start that it is given, so that tuning never begins behind its start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foreword.backbone import Vectors

Encoder = nn.Module
"""Its `forward()` returns `Vectors`, fp32, inside the graph."""


@dataclass(frozen=True)
class Start:
    """Where an encoder begins."""

    embeddings: Tensor
    """[P, D] fp32, virtual tokens."""
    prefix: tuple[Tensor, Tensor] | None
    """[L, H, P, head_dim] fp32 each: keys and values, for methods that learn these."""
    longest: int
    """Text tokens of the longest sequence in a training row, its answer counted where it stands behind the question."""


@dataclass(frozen=True)
class Method:
    """A way to learn a soft prompt, with the learning rate that suits it."""

    encoder: Callable[[Start], Encoder]
    learning_rate: float
    trains: str
    """What is trained, and how many numbers that are."""
    when: str
    """When to choose it."""
    learns: Literal["tokens", "prefix"] = "tokens"
    """Virtual tokens at the model's input, or keys and values in every layer."""


def count(encoder: Encoder) -> int:
    """Trained parameters."""
    return sum(p.numel() for p in encoder.parameters() if p.requires_grad)


def flat(vectors: Vectors) -> dict[str, Tensor]:
    """The tensors that are there, by name."""
    return {name: tensor for name, tensor in vars(vectors).items() if tensor is not None}


def made(encoder: Encoder) -> dict[str, Tensor]:
    """What goes into the prompt table: the encoder's output by name, fp32, on the CPU."""
    with torch.no_grad():
        return {name: tensor.detach().float().cpu().clone() for name, tensor in flat(encoder()).items()}


def zeroed(layer: nn.Linear) -> nn.Linear:
    """A last layer that begins by adding nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
