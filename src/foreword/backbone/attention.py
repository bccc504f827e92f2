"""Attention over rows laid in one sequence behind one shared prefix. Knows tensors; knows no prompts and no tasks.

Under causal attention the states of the shared prefix do not depend on the rows behind it, so they are computed once.
It is registered with transformers' `AttentionInterface`, so the model's own code is left alone.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from foreword.backbone import flex
from foreword.backbone.layout import Layout, Masks, OwnLayout, Placed, additive
from foreword.errors import ForewordError

NAME = "foreword_shared_prefix"
LONG = 256
"""Tokens of a row from which on torch's fused attention, which keeps no scores for the way back, is faster on a CPU."""


def attention_scores(
    products: Tensor, scaling: float, softcap: float | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Scaled scores in fp32 or better, capped as Gemma 2 does, with what must not be seen pushed out."""
    scores = products.to(dtype) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores if bias is None else scores + bias


def _prefixes(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """q [G, F, H, d], k and v [KV, G, C + F, d] → [G · F, H, d]; queries that share a KV head share a product."""
    G, F, H, d = q.shape
    KV, _, ahead, _ = k.shape
    q = q.reshape(G, F, KV, H // KV, d).permute(2, 0, 3, 1, 4).reshape(KV * G, -1, d)
    products = (q @ k.flatten(0, 1).transpose(1, 2)).view(KV, G, H // KV, F, ahead)
    weights = torch.softmax(attention_scores(products, scaling, softcap, bias, bias.dtype), -1).to(v.dtype)
    out = weights.view(KV * G, -1, ahead) @ v.flatten(0, 1)
    return out.view(KV, G, H // KV, F, -1).permute(1, 3, 0, 2, 4).reshape(G * F, H, -1)


def _rows(
    q: Tensor, k: Tensor, v: Tensor, kf: Tensor, vf: Tensor, layout: Layout, masks: Masks, scaling: float,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    """q [T, H, d], k and v [T, KV, d], kf and vf [KV, G, C + F, d] → [N, H, d].

    Scores against a shared prefix are one product per KV head for all rows behind it; each row's scores against itself
    are a batched product over padded rows, the only place where padding exists.
    """
    (B, n), (KV, G, ahead, d) = layout.slots.shape, kf.shape
    shared = q.shape[1] // KV
    M = B // G * shared * n  # queries of a KV head behind one shared prefix
    slots = layout.slots.flatten()
    if n >= LONG and softcap is None:
        return _long_rows(q, k, v, kf, vf, layout, masks, scaling)
    q = q.index_select(0, slots).view(B, n, KV, shared, d).permute(2, 0, 3, 1, 4).reshape(KV * B, shared * n, d)
    k = k.index_select(0, slots).view(B, n, KV, d).permute(2, 0, 1, 3).reshape(KV * B, n, d)
    v = v.index_select(0, slots).view(B, n, KV, -1).permute(2, 0, 1, 3).flatten(0, 1)
    to_self = (q @ k.transpose(1, 2)).view(KV, B, shared, n, n)
    to_prefix = (q.view(KV * G, M, d) @ kf.flatten(0, 1).transpose(1, 2)).view(KV, B, shared, n, ahead)
    dtype = masks.own.dtype
    to_self = attention_scores(to_self, scaling, softcap, masks.own, dtype)
    to_prefix = attention_scores(to_prefix, scaling, softcap, masks.behind, dtype)
    weights = torch.softmax(torch.cat([to_prefix, to_self], -1), -1).to(v.dtype)
    on_prefix, on_self = weights.split([ahead, n], -1)
    out: Tensor = on_self.reshape(KV * B, shared * n, n) @ v
    out = out + (on_prefix.reshape(KV * G, M, ahead) @ vf.flatten(0, 1)).view(out.shape)
    out = out.view(KV, B, shared, n, -1).permute(1, 3, 0, 2, 4).reshape(B * n, KV * shared, -1)
    return out.index_select(0, layout.unpad)


def _long_rows(
    q: Tensor, k: Tensor, v: Tensor, kf: Tensor, vf: Tensor, layout: Layout, masks: Masks, scaling: float
) -> Tensor:
    """As `_rows`; the shared prefix's keys and values, few beside a long row's own, are laid before each row's."""
    (B, n), (KV, G, ahead, _), H = layout.slots.shape, kf.shape, q.shape[1]
    slots = layout.slots.flatten()

    def heads(x: Tensor, before: Tensor | None = None) -> Tensor:
        """[B, H, (ahead +) n, size]"""
        x = x.index_select(0, slots).view(B, n, x.shape[1], -1).transpose(1, 2)
        if before is not None:
            before = before.transpose(0, 1).repeat_interleave(B // G, 0)
            x = torch.cat([before, x], 2).repeat_interleave(H // KV, 1)
        return x

    own = masks.own.to(q.dtype)
    behind = own.new_zeros(1) if masks.behind is None else masks.behind.to(q.dtype)
    rows = max(len(own), len(behind))
    bias = torch.cat([behind.expand(rows, 1, n, ahead), own.expand(rows, 1, n, n)], -1)
    out = torch.nn.functional.scaled_dot_product_attention(heads(q), heads(k, kf), heads(v, vf), bias, scale=scaling)
    return out.transpose(1, 2).reshape(B * n, H, -1).index_select(0, layout.unpad)


def shared_prefix_attention(
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
    layout, window, cache = layout.next_layer(sliding_window) if isinstance(layout, Layout) else layout
    if layout.fused and softcap is None:
        return flex.attend(query, key, value, cache, layout, window, scaling), None
    masks = layout.masks(window, torch.promote_types(query.dtype, torch.float32))
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, heads, d]
    G, F = layout.groups, layout.prefix_tokens
    kf, vf = (x[: G * F].reshape(G, F, *x.shape[1:]).permute(2, 0, 1, 3) for x in (k, v))  # [KV, G, F, d]
    if cache is not None:
        kf, vf = torch.cat([cache[0], kf], 2), torch.cat([cache[1], vf], 2)
    out = _rows(q, k, v, kf, vf, layout, masks, scaling, softcap)
    if masks.inside is not None:
        inside = q[: G * F].reshape(G, F, *q.shape[1:])
        out = torch.cat([_prefixes(inside, kf, vf, masks.inside, scaling, softcap), out])
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
    scores = attention_scores(
        query @ key.transpose(2, 3), scaling, softcap, additive(mask[..., : n + past], dtype), dtype
    )
    return (torch.softmax(scores, -1).to(value.dtype) @ value).transpose(1, 2), None


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
