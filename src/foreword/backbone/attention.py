"""Attention over rows laid in one sequence behind one shared front. Knows tensors; knows no prompts and no tasks.

Under causal attention the states of the front do not depend on the rows behind it, so they are computed once:
`[front F | row 1 | row 2 | …]` without padding, where every row token attends to the front and to its own row. It is
registered with transformers' `AttentionInterface`, so the model's own code is left alone.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from foreword.errors import ForewordError

NAME = "foreword_shared_front"
NEVER = -1e9
"""Added to a score that must not count; finite, so that no row of a softmax can be empty."""


@dataclass
class Layout:
    """Where the tokens of a packed sequence of T = F + N tokens stand. `front` holds F = 0 tokens when it is cached."""

    front: int
    """F: tokens of the front that are part of the sequence."""
    positions: Tensor
    """[T] position of every token in its own row's context, the front counted."""
    slots: Tensor
    """[B * n] for every slot of the padded rows, the token (0 … T-1) that fills it; padding repeats a row's first."""
    unpad: Tensor
    """[N] for every row token, its slot."""
    rows: int
    """B"""
    width: int
    """n: the longest row."""
    visible: Tensor
    """[B or 1, n, n] bool: query i of a row may see key j of the same row."""
    cache: list[tuple[Tensor, Tensor]] | None = None
    """Keys and values of a front computed before: per layer two [H, F, head_dim]."""
    layers: int = 0
    """How many layers have used this layout; a model that ignores it is found out by this."""
    _masks: dict[tuple[int | None, torch.dtype], tuple[Tensor | None, Tensor, Tensor | None]] = field(
        default_factory=dict
    )

    def masks(self, window: int | None, front: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """What to add to the scores: front to front [F, F], row to row [B or 1, 1, n, n], row to front [B, 1, n, F].

        The last is None when every row token sees the whole front, as it does without a sliding `window`. The first
        is None when the front is cached.
        """
        key = (window, dtype)
        if key not in self._masks:
            device = self.positions.device
            ahead = torch.arange(front, device=device)
            at = self.positions[self.slots].view(self.rows, self.width)
            own = self.visible
            inside = ahead <= ahead[:, None]
            behind: Tensor | None = None
            if window is not None and int(at.max()) >= window:
                own = own & (at[:, :, None] - at[:, None, :] < window)
                inside = inside & (ahead[:, None] - ahead < window)
                behind = _bias(at[:, :, None] - ahead < window, dtype)[:, None]
            within = _bias(inside, dtype) if self.front else None
            self._masks[key] = (within, _bias(own, dtype)[:, None], behind)
        return self._masks[key]


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, NEVER)


def _scores(products: Tensor, scaling: float, softcap: float | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Scaled scores in fp32 or better, capped as Gemma 2 does, with what must not be seen pushed out."""
    scores = products.to(dtype) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores if bias is None else scores + bias


def _front(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float, softcap: float | None) -> Tensor:
    """q [F, H, d], k and v [KV, F, d] → [F, H, d]; the queries that share a KV head go into one product."""
    assert bias is not None
    F, H, d = q.shape
    KV = k.shape[0]
    G = H // KV
    grouped = q.reshape(F, KV, G, d).permute(1, 2, 0, 3).reshape(KV, G * F, d)
    scores = _scores((grouped @ k.transpose(1, 2)).view(KV, G, F, F), scaling, softcap, bias, bias.dtype)
    weights = torch.softmax(scores, -1).to(v.dtype).view(KV, G * F, F)
    return (weights @ v).view(KV, G, F, -1).permute(2, 0, 1, 3).reshape(F, H, -1)


def _rows(
    q: Tensor, k: Tensor, v: Tensor, kf: Tensor, vf: Tensor, layout: Layout,
    own: Tensor, behind: Tensor | None, scaling: float, softcap: float | None,
) -> Tensor:  # fmt: skip
    """q [T, H, d], k and v [T, KV, d], kf and vf [KV, F, d] → [N, H, d].

    Scores against the front are one product per KV head for all rows; each row's scores against itself are a
    batched product over padded rows, the only place where padding exists.
    """
    B, n, F = layout.rows, layout.width, kf.shape[1]
    H, d = q.shape[1:]
    KV = k.shape[1]
    G = H // KV
    q = q.index_select(0, layout.slots).view(B, n, KV, G, d).permute(2, 0, 3, 1, 4).reshape(KV, B * G * n, d)
    k = k.index_select(0, layout.slots).view(B, n, KV, d).permute(2, 0, 1, 3).reshape(KV * B, n, d)
    v = v.index_select(0, layout.slots).view(B, n, KV, -1).permute(2, 0, 1, 3).reshape(KV * B, n, v.shape[-1])
    to_self = (q.reshape(KV * B, G * n, d) @ k.transpose(1, 2)).view(KV, B, G, n, n)
    to_front = (q @ kf.transpose(1, 2)).view(KV, B, G, n, F)
    to_self = _scores(to_self, scaling, softcap, own, own.dtype)
    to_front = _scores(to_front, scaling, softcap, behind, own.dtype)
    weights = torch.softmax(torch.cat([to_front, to_self], -1), -1).to(v.dtype)
    on_front, on_self = weights.split([F, n], -1)
    out: Tensor = on_self.reshape(KV * B, G * n, n) @ v
    out = out + (on_front.reshape(KV, B * G * n, F) @ vf).view(KV * B, G * n, v.shape[-1])
    return out.view(KV, B, G, n, -1).permute(1, 3, 0, 2, 4).reshape(B * n, H, -1).index_select(0, layout.unpad)


def shared_front_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """query [1, H, T, d], key and value [1, KV, T, d] → [1, T, H, d].

    The signature is that of transformers' attention functions. Without a `layout` (generation, and whoever calls the
    model directly) it is ordinary attention.
    """
    if other.get("s_aux") is not None:
        raise ForewordError("this model uses attention sinks, which Foreword cannot run yet; choose another backbone")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layout is None and softcap is not None:
        return _capped(query, key, value, attention_mask, scaling, softcap)
    if layout is None:
        out: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **other)[0]
        return out, None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    F = layout.front
    if layout.cache is None:
        kf, vf = k[:F].transpose(0, 1), v[:F].transpose(0, 1)
    else:
        kf, vf = layout.cache[layout.layers]
    layout.layers += 1
    dtype = torch.promote_types(query.dtype, torch.float32)
    within, own, behind = layout.masks(sliding_window, kf.shape[1], dtype)
    rows = _rows(q, k, v, kf, vf, layout, own, behind, scaling, softcap)
    if F:
        rows = torch.cat([_front(q[:F], kf, vf, within, scaling, softcap), rows])
    return rows[None], None


def _capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, softcap: float
) -> tuple[Tensor, None]:
    """Ordinary attention with capped scores, which no fused kernel on a CPU offers."""
    n, past = query.shape[2], key.shape[2] - query.shape[2]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if mask is None:
        mask = torch.ones(n, n + past, dtype=torch.bool, device=query.device).tril(past)
    dtype = torch.promote_types(query.dtype, torch.float32)
    scores = _scores(query @ key.transpose(2, 3), scaling, softcap, _bias(mask[..., : n + past], dtype), dtype)
    return (torch.softmax(scores, -1).to(value.dtype) @ value).transpose(1, 2), None


AttentionInterface.register(NAME, shared_front_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
