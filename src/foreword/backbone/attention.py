"""Attention over rows laid in one sequence behind one shared front. Knows tensors; knows no prompts and no tasks.

Under causal attention the states of the front do not depend on the rows behind it, so they are computed once:
`[front | row 1 | row 2 | …]` without padding, where every row token attends to the front and to its own row; several
prompts may stand in one sequence, each with a front of its own. It is registered with transformers'
`AttentionInterface`, so the model's own code is left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from foreword.errors import ForewordError

NAME = "foreword_shared_front"
NEVER = -1e9
"""Added to a score that must not count; finite, so that no row of a softmax can be empty."""
LONG = 256
"""Tokens of a row from which on torch's fused attention, which keeps no scores for the way back, is the faster one."""


class Placed(NamedTuple):
    """What one layer needs of a layout."""

    fronts: int
    front: int
    slots: Tensor
    unpad: Tensor
    within: Tensor | None
    own: Tensor
    behind: Tensor | None
    cache: tuple[Tensor, Tensor] | None


@dataclass
class Layout:
    """Where the tokens of a packed sequence of T = G · F + N tokens stand: G fronts of F tokens, then all rows.

    G prompts may share a batch, each with a front of its own and R rows behind it (B = G · R). What a front begins
    with may come from a cache of C keys and values; a front that is cached as a whole leaves F = 0. Fronts shorter
    than others, and prompts with fewer rows, are filled up, and what fills them is never seen.
    """

    fronts: int
    """G"""
    front: int
    """F: tokens of every front that are part of the sequence."""
    positions: Tensor
    """[T] position of every token in its own row's context, the front counted."""
    ahead: Tensor
    """[G or 1, C + F] positions of what stands in front of the rows, cached keys first; -1 where there is nothing."""
    slots: Tensor
    """[B, n] for every place of the padded rows, the token (0 … T-1) that fills it; padding repeats a row's first."""
    unpad: Tensor
    """[N] for every row token, its place in the flattened `slots`."""
    visible: Tensor
    """[B or 1, n, n] bool: query i of a row may see key j of the same row."""
    cache: Sequence[tuple[Tensor, Tensor]] = ()
    """Keys and values computed before: per layer two [H, G, C, head_dim]."""
    windows: list[int | None] = field(default_factory=list)
    """Of the layers that have used this layout so far; a model that ignores it is found out by their number."""
    _masks: dict[tuple[int | None, torch.dtype], tuple[Tensor | None, Tensor, Tensor | None]] = field(
        default_factory=dict
    )

    def masks(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """What to add to the scores: front to front [G or 1, 1, F, C + F], row to row [B or 1, 1, n, n], row to front.

        The first is None where no front is part of the sequence. The last, [B, 1, n or 1, C + F], is None where every
        row token sees the whole front, as it does without a sliding `window` and without fronts of several lengths.
        """
        key = (window, dtype)
        if key not in self._masks:
            at = self.positions[self.slots]
            ahead = self.ahead[:, None]
            here = self.ahead[:, self.ahead.shape[1] - self.front :, None]
            inside = (ahead >= 0) & (ahead <= here)
            own = self.visible
            behind = (ahead >= 0).repeat_interleave(len(at) // len(self.ahead), 0)  # [B, 1, C + F]
            if window is not None and int(at.max()) >= window:
                own = own & (at[:, :, None] - at[:, None, :] < window)
                inside = inside & (here - ahead < window)
                behind = behind & (at[:, :, None] - ahead.repeat_interleave(len(at) // len(self.ahead), 0) < window)
            self._masks[key] = (
                _bias(inside, dtype)[:, None] if self.front else None,
                _bias(own, dtype)[:, None],
                None if behind.all() else _bias(behind, dtype)[:, None],
            )
        return self._masks[key]

    def next_layer(self, window: int | None, dtype: torch.dtype) -> Placed:
        """For the next layer in turn."""
        cache = self.cache[len(self.windows)] if self.cache else None
        self.windows.append(window)
        return Placed(self.fronts, self.front, self.slots, self.unpad, *self.masks(window, dtype), cache)


class OwnLayout:
    """A layout that attends in a way of its own, such as over keys and values that rows keep between steps."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """For the next layer in turn: query [1, H, T, d], key and value [1, KV, T, d] → [1, T, H, d]."""
        raise NotImplementedError


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, NEVER)


def _scores(products: Tensor, scaling: float, softcap: float | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Scaled scores in fp32 or better, capped as Gemma 2 does, with what must not be seen pushed out."""
    scores = products.to(dtype) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores if bias is None else scores + bias


def _front(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """q [G, F, H, d], k and v [KV, G, C + F, d] → [G · F, H, d]; queries that share a KV head share a product."""
    G, F, H, d = q.shape
    KV, _, ahead, _ = k.shape
    q = q.reshape(G, F, KV, H // KV, d).permute(2, 0, 3, 1, 4).reshape(KV * G, -1, d)
    products = (q @ k.flatten(0, 1).transpose(1, 2)).view(KV, G, H // KV, F, ahead)
    weights = torch.softmax(_scores(products, scaling, softcap, bias, bias.dtype), -1).to(v.dtype)
    out = weights.view(KV * G, -1, ahead) @ v.flatten(0, 1)
    return out.view(KV, G, H // KV, F, -1).permute(1, 3, 0, 2, 4).reshape(G * F, H, -1)


def _rows(
    q: Tensor, k: Tensor, v: Tensor, kf: Tensor, vf: Tensor, layout: Placed, scaling: float, softcap: float | None
) -> Tensor:  # fmt: skip
    """q [T, H, d], k and v [T, KV, d], kf and vf [KV, G, C + F, d] → [N, H, d].

    Scores against a front are one product per KV head for all rows behind it; each row's scores against itself are a
    batched product over padded rows, the only place where padding exists.
    """
    (B, n), (KV, G, ahead, d) = layout.slots.shape, kf.shape
    shared = q.shape[1] // KV
    M = B // G * shared * n  # queries of a KV head behind one front
    slots = layout.slots.flatten()
    if n >= LONG and softcap is None:
        return _long_rows(q, k, v, kf, vf, layout, scaling)
    q = q.index_select(0, slots).view(B, n, KV, shared, d).permute(2, 0, 3, 1, 4).reshape(KV * B, shared * n, d)
    k = k.index_select(0, slots).view(B, n, KV, d).permute(2, 0, 1, 3).reshape(KV * B, n, d)
    v = v.index_select(0, slots).view(B, n, KV, -1).permute(2, 0, 1, 3).flatten(0, 1)
    to_self = (q @ k.transpose(1, 2)).view(KV, B, shared, n, n)
    to_front = (q.view(KV * G, M, d) @ kf.flatten(0, 1).transpose(1, 2)).view(KV, B, shared, n, ahead)
    dtype = layout.own.dtype
    to_self = _scores(to_self, scaling, softcap, layout.own, dtype)
    to_front = _scores(to_front, scaling, softcap, layout.behind, dtype)
    weights = torch.softmax(torch.cat([to_front, to_self], -1), -1).to(v.dtype)
    on_front, on_self = weights.split([ahead, n], -1)
    out: Tensor = on_self.reshape(KV * B, shared * n, n) @ v
    out = out + (on_front.reshape(KV * G, M, ahead) @ vf.flatten(0, 1)).view(out.shape)
    out = out.view(KV, B, shared, n, -1).permute(1, 3, 0, 2, 4).reshape(B * n, KV * shared, -1)
    return out.index_select(0, layout.unpad)


def _long_rows(q: Tensor, k: Tensor, v: Tensor, kf: Tensor, vf: Tensor, layout: Placed, scaling: float) -> Tensor:
    """As `_rows`; the front's keys and values, few beside a long row's own, are laid before those of each row."""
    (B, n), (KV, G, ahead, _), H = layout.slots.shape, kf.shape, q.shape[1]
    slots = layout.slots.flatten()

    def heads(x: Tensor, front: Tensor | None = None) -> Tensor:
        """[B, H, (ahead +) n, size]"""
        x = x.index_select(0, slots).view(B, n, x.shape[1], -1).transpose(1, 2)
        if front is not None:
            front = front.transpose(0, 1).repeat_interleave(B // G, 0)
            x = torch.cat([front, x], 2).repeat_interleave(H // KV, 1)
        return x

    own = layout.own.to(q.dtype)
    behind = own.new_zeros(1) if layout.behind is None else layout.behind.to(q.dtype)
    rows = max(len(own), len(behind))
    bias = torch.cat([behind.expand(rows, 1, n, ahead), own.expand(rows, 1, n, n)], -1)
    out = torch.nn.functional.scaled_dot_product_attention(heads(q), heads(k, kf), heads(v, vf), bias, scale=scaling)
    return out.transpose(1, 2).reshape(B * n, H, -1).index_select(0, layout.unpad)


def shared_front_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | Placed | OwnLayout | None = None,
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
    if isinstance(layout, OwnLayout):
        return layout.attend(query, key, value, scaling, sliding_window, softcap), None
    if layout is None and softcap is not None:
        return _capped(query, key, value, attention_mask, scaling, softcap)
    if layout is None:
        out: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **other)[0]
        return out, None
    if isinstance(layout, Layout):
        layout = layout.next_layer(sliding_window, torch.promote_types(query.dtype, torch.float32))
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, d]
    G, F = layout.fronts, layout.front
    kf, vf = (x[: G * F].reshape(G, F, *x.shape[1:]).permute(2, 0, 1, 3) for x in (k, v))  # [KV, G, F, d]
    if layout.cache is not None:
        kf, vf = torch.cat([layout.cache[0], kf], 2), torch.cat([layout.cache[1], vf], 2)
    out = _rows(q, k, v, kf, vf, layout, scaling, softcap)
    if layout.within is not None:
        fronts = q[: G * F].reshape(G, F, *q.shape[1:])
        out = torch.cat([_front(fronts, kf, vf, layout.within, scaling, softcap), out])
    return out[None], None


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
