"""A learning curve: what a run writes down when it measures, which version it keeps, how far its vectors have gone.

Knows numbers and tensors; knows no training. Offsets (DePT) are left out of the distances: they begin at zero, which
nothing can be compared with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreword.backbone import Backbone

KINDS = ("embeddings", "keys", "values")
PIECE = 4_096
"""Tokens of the vocabulary whose embeddings are held in fp32 at a time."""


@dataclass(frozen=True)
class CurvePoint:
    """A line of `curves.jsonl`. What older runs did not write down is None."""

    step: int
    """Optimizer steps done."""
    rows: int
    """Training rows seen so far, repeats counted."""
    loss: float | None
    """Mean loss per answer token over the steps since the last point, in nats; None before the first step."""
    dev: float | None
    """The task's metric on dev, where it was measured at this step."""
    seconds: float
    """Wall time since the run began."""
    dev_rows: int | None = None
    """Rows that `dev` was measured on."""
    norm_ratio: float | None = None
    """Median norm of the virtual tokens over that of real ones; of keys and values, over their start's."""
    moved: float | None = None
    """Mean over tokens of the distance from the start, over the start's norm."""
    gradient: float | None = None
    """Mean norm of the gradient before it was clipped, over the steps since the last point."""
    clipped: float | None = None
    """Share of those steps in which it was clipped."""
    dev_by_task: dict[str, float] | None = None
    """Where several tasks are tuned together: each one's metric on dev, of which `dev` is the mean."""


APART = 0.1
"""The share of rows that two versions answer differently, about: it says how far their scores are apart by chance."""


def keeps(dev: float | None, curve: Sequence[CurvePoint], rows: int) -> bool:
    """Whether a version that scores `dev` on so many rows is kept instead of those measured before.

    A later version has learned more, so it is kept unless an earlier one did better by more than a standard error.
    """
    best = max((point.dev for point in curve if point.dev is not None), default=-math.inf)
    return dev is None or dev >= best - math.sqrt(APART / rows)


def peak(curve: Sequence[CurvePoint]) -> int:
    """The step that did best on dev, the first of equals; without dev, the last."""
    measured = [point for point in curve if point.dev is not None]
    return max(measured, key=lambda point: point.dev or 0.0).step if measured else curve[-1].step if curve else 0


def real_norm(backbone: Backbone) -> float:
    """The median norm of the vocabulary's embeddings, as the model reads them."""
    ids = torch.arange(backbone.vocabulary, device=backbone.device)
    with torch.no_grad():
        norms = [backbone.embedder.embed(piece).float().norm(dim=1) for piece in ids.split(PIECE)]
    return torch.cat(norms).median().item()


def norm_ratio(vectors: Mapping[str, Tensor], start: Mapping[str, Tensor], real: float) -> float | None:
    """Median norm of the virtual tokens over `real`; of keys and values, over their start's, the larger of the two.

    None where there is nothing to compare with: a prefix that began at zero.
    """
    ratios = []
    for name in _compared(vectors, start):
        usual = real if name == "embeddings" else _tokens(start[name]).norm(dim=1).median().item()
        ratios.append(_tokens(vectors[name]).norm(dim=1).median().item() / usual if usual else None)
    return max((ratio for ratio in ratios if ratio is not None), default=None)


def moved(vectors: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float | None:
    """Mean over tokens of |v - start| / |start|, keys and values counted apart; None where all began at zero."""
    shares = []
    for name in _compared(vectors, start):
        before, now = _tokens(start[name]), _tokens(vectors[name])
        length = before.norm(dim=1)
        shares.append(((now - before).norm(dim=1) / length)[length > 0])
    together = torch.cat(shares) if shares else torch.empty(0)
    return together.mean().item() if len(together) else None


def _compared(vectors: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> list[str]:
    return [name for name in KINDS if name in vectors and name in start]


def _tokens(tensor: Tensor) -> Tensor:
    """A row to a token: [P, D] as it is; [L, H, P, head_dim] as [P, L · H · head_dim]."""
    return tensor if tensor.dim() == 2 else tensor.movedim(2, 0).flatten(1)
