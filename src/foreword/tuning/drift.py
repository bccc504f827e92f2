"""How far a prompt's vectors have gone: from real tokens, and from their start. Knows tensors; knows no training.

Offsets (DePT) are left out: they begin at zero, which nothing can be compared with.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from foreword.backbone import Backbone

KINDS = ("embeddings", "keys", "values")
PIECE = 4_096
"""Tokens of the vocabulary whose embeddings are held in fp32 at a time."""


def real_norm(backbone: Backbone) -> float:
    """The median norm of the vocabulary's embeddings, as the model reads them."""
    ids = torch.arange(backbone.vocabulary, device=backbone.device)
    with torch.no_grad():
        norms = [backbone.embed(piece).float().norm(dim=1) for piece in ids.split(PIECE)]
    return torch.cat(norms).median().item()


def norm_ratio(vectors: Mapping[str, Tensor], start: Mapping[str, Tensor], real: float) -> float | None:
    """Median norm of the virtual tokens over `real`; of keys and values, over their start's, the larger of the two.

    None where there is nothing to compare with: a prefix that began at zero.
    """
    found = []
    for name in _compared(vectors, start):
        usual = real if name == "embeddings" else _tokens(start[name]).norm(dim=1).median().item()
        found.append(_tokens(vectors[name]).norm(dim=1).median().item() / usual if usual else None)
    return max((ratio for ratio in found if ratio is not None), default=None)


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
