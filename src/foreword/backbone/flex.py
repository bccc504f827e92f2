"""Attention over a packed sequence in one fused kernel: torch's FlexAttention (Dong et al. 2024). Knows tensors only.

For long rows on a GPU. It keeps no scores, pads nothing, repeats no front for its rows, and skips every block of keys
that nothing in a block of queries sees. The kernel is compiled where it is used; where that fails, or where its numbers
are not those of plain attention, it is left alone. So are capped scores: torch 2.13 gives a wrong gradient for a
`score_mod` in a layer that is computed twice.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from foreword.errors import ForewordWarning

SMALLEST_HEAD = 16
"""Numbers in a head that the compiled kernel wants at least."""
EVERYTHING = 2**31 - 1
"""A window that nothing is too far away for."""


class Places(NamedTuple):
    """Where tokens stand, [T] each: those of a packed sequence, or the keys, those cached before it first."""

    group: Tensor
    """The front that a token is part of or stands behind."""
    row: Tensor
    """-1 in a front."""
    place: Tensor
    """In its own row, counted from the row's first token; 0 in a front."""
    position: Tensor
    """In its row's context, the front counted; -1 for what fills a front up, which is never seen."""


def suits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether tensors like these are attended to in a kernel that was found to work on this machine."""
    sizes = query.shape[1], key.shape[1], query.shape[3], value.shape[3]
    return query.device.type == "cuda" and min(sizes[2:]) >= SMALLEST_HEAD and _works(query.dtype, query.device, *sizes)


def blocks(queries: Places, keys: Places, visible: Tensor, window: int | None) -> BlockMask:
    """Which keys the queries see; `visible` [B or 1, n, n] as in a layout, its rows those of the places."""
    # All that differs from batch to batch is a tensor, and looked up by a sum, so that one kernel serves every batch.
    masks, n, _ = visible.shape
    visible = visible.flatten()
    line = queries.place * n
    column = keys.place + (keys.row.clamp(min=0) * n * n if masks > 1 else 0)
    reach = torch.tensor(EVERYTHING if window is None else window, device=visible.device)

    def seen(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = queries.position[q] - keys.position[k]
        near = (distance >= 0) & (distance < reach) & (keys.position[k] >= 0)
        own = (keys.row[k] == queries.row[q]) & visible[line[q] + column[k]]
        return near & (keys.group[k] == queries.group[q]) & ((keys.row[k] < 0) | own)

    make = compiled(create_block_mask)
    made: BlockMask = make(seen, None, None, len(queries.row), len(keys.row), device=visible.device)
    return made


def attend(query: Tensor, key: Tensor, value: Tensor, seen: BlockMask, scaling: float) -> Tensor:
    """query [1, H, T, d], key and value [1, KV, C + T, d] → [1, T, H, d]."""
    query, key, value = (x.contiguous() for x in (query, key, value))
    out: Tensor = compiled(flex_attention)(query, key, value, block_mask=seen, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """For sequences of any length: torch compiles a variant for each way in which gradients and a cache come together.

    They are fewer than the eight after which it would go on without a kernel, as long as memory is laid out alike.
    """
    return torch.compile(function, dynamic=True)


@cache
def _works(dtype: torch.dtype, device: torch.device, H: int, KV: int, d: int, v: int) -> bool:
    """Whether output and gradient are those of plain attention: asked by numbers, once for each kind of model."""
    T, generator = 300, torch.Generator(device).manual_seed(0)

    def random(heads: int, size: int) -> Tensor:
        made = torch.randn(1, heads, T, size, generator=generator, device=device, dtype=torch.float32)
        return made.to(dtype).requires_grad_()

    query, key, value = random(H, d), random(KV, d), random(KV, v)
    at = torch.arange(T, device=device)
    row, place = at // 100 - 1, torch.where(at < 100, 0, at % 100)  # a front and two rows
    places = Places(torch.zeros_like(at), row, place, at % 100 + 100 * (row >= 0))
    causal = torch.ones(100, 100, dtype=torch.bool, device=device).tril()[None]
    try:
        seen = blocks(places, places, causal, window=150)
        # A layer that is computed twice, in which this may be asked, has a way of its own to keep tensors.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_itself, _itself):
            found = _with_gradients(attend(query, key, value, seen, d**-0.5), query, key, value)
            expected = _with_gradients(_plainly(query, key, value, seen), query, key, value)
        bound = 3e-2 if dtype.itemsize < 4 else 1e-3
        wrong = [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if (a - b).norm() > bound * b.norm()]
        reason = "its numbers are not those of plain attention" if wrong else ""
    except Exception as error:  # compilers fail in ways of their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
    if reason:
        warnings.warn(
            f"FlexAttention cannot be used here ({reason}); long rows take another way, as exact, with more memory",
            ForewordWarning,
            stacklevel=2,
        )
    return not reason


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _plainly(query: Tensor, key: Tensor, value: Tensor, seen: BlockMask) -> Tensor:
    """What `attend` should give, in fp32."""
    q, k, v = query.float(), *(x.float().repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    T = torch.arange(query.shape[2], device=query.device)
    nothing = ~seen.mask_mod(T[:1], T[:1], T[:, None], T)
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    return (torch.softmax(scores.masked_fill(nothing, -torch.inf), -1) @ v).transpose(1, 2)


def _with_gradients(out: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [x.float() for x in (out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves))]
