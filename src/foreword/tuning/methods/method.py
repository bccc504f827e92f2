"""What a method is: a small trainable module that makes a prompt's vectors. Knows no model, rows or loop.

A package of its own adds one by an entry point in the group `foreword.methods`, whose name is the method's:

    [project.entry-points."foreword.methods"]
    scaled = "my_package:SCALED"

    class Scaled(nn.Module):
        def __init__(self, start: Start) -> None:
            super().__init__()
            self.register_buffer("start", start.embeddings)
            self.scale = nn.Parameter(torch.ones(len(start.embeddings), 1))

        def forward(self) -> Vectors:
            return Vectors(embeddings=self.start * self.scale)

    SCALED = Method(Scaled, 1e-2, "one factor for each token: P numbers", "nothing else fits into the table")

It then has what all methods have: `foreword tune --method scaled`, checkpoints, resuming, sweeps, serving.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foreword.backbone import Vectors

Encoder = nn.Module
"""Its `forward()` returns `Made`, fp32, inside the graph."""
Made = Vectors | tuple[Vectors, ...]
"""The vectors of a prompt, or, from an encoder of several tasks, those of each one's prompt."""


@dataclass(frozen=True)
class Start:
    """Where an encoder begins."""

    embeddings: Tensor
    """[P, D] fp32, virtual tokens."""
    prefix: tuple[Tensor, Tensor] | None
    """[L, H, P, head_dim] fp32 each: keys and values, for methods that learn these."""
    longest: int
    """Text tokens of the longest training row, its answer not counted."""


@dataclass(frozen=True)
class Method:
    """A way to learn a soft prompt, with the learning rate that suits it."""

    encoder: Callable[..., Encoder]
    """Makes the module that is trained, whose `forward()` gives the vectors, from a `Start`; where it is `multitask`,
    from one for every task. It begins exactly there, so that tuning never begins behind its start, and draws random
    numbers from torch's default generator alone, which is seeded. Its state, buffers included, is kept in checkpoints.
    """
    learning_rate: float
    trains: str
    """What is trained, and how many numbers that are."""
    when: str
    """When to choose it."""
    learns: Literal["tokens", "prefix"] = "tokens"
    """Virtual tokens at the model's input, or keys and values in every layer."""
    multitask: bool = False
    """Whether one encoder serves several tasks. What they have in common is in its attribute `shared`, a parameter or
    a module; tasks that are added to a finished run begin with that."""


def count(encoder: Encoder) -> int:
    """Trained parameters."""
    return sum(p.numel() for p in encoder.parameters() if p.requires_grad)


def flat(made: Made) -> dict[str, Tensor]:
    """The tensors that are there, by name: `keys`; of several tasks `0.keys`, `1.keys` and so on."""
    if isinstance(made, Vectors):
        return {name: tensor for name, tensor in vars(made).items() if tensor is not None}
    if len(made) == 1:
        return flat(made[0])
    return {f"{task}.{name}": tensor for task, one in enumerate(made) for name, tensor in flat(one).items()}


def by_task(tensors: Mapping[str, Tensor], tasks: int) -> list[dict[str, Tensor]]:
    """The inverse of `flat`, a dictionary to a task."""
    heads = [f"{task}." if tasks > 1 else "" for task in range(tasks)]
    return [{name[len(head) :]: tensor for name, tensor in tensors.items() if name.startswith(head)} for head in heads]


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
