"""Attention over a packed sequence in one fused kernel: torch's FlexAttention (Dong et al. 2024). Knows layouts.

For long rows on a GPU. It keeps no scores, pads nothing, repeats no shared prefix for its rows, and skips every block
of keys that nothing in a block of queries sees. Torch compiles the kernel when it is first used.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch._dynamo.config as dynamo
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from foreword.backbone.layout import Layout

LONG = 256
"""Tokens of a row from which on it is used: the scores of shorter ones are small, and products are good at them."""
SMALLEST_HEAD = 16
"""Numbers in a head that the compiled kernel wants at least."""
VARIANTS = 64
"""Kernels that torch may compile before it goes on without one: each shape of heads, and each way in which gradients
and caches come together, has its own; the lengths of sequences have not."""


class Places(NamedTuple):
    """Where tokens stand, [T] each."""

    group: Tensor
    """The shared prefix (0 … G-1) that a token is part of or stands behind."""
    row: Tensor
    """-1 in a shared prefix."""
    branch: Tensor
    """As in a layout; 0 in a shared prefix."""
    place: Tensor
    """In the sequence, so that what was laid down earlier has the lower one; 0 in a shared prefix."""
    position: Tensor
    """In its row's context, the shared prefix counted; -1 for what is never seen."""


def possible(device: torch.device, head: int) -> bool:
    """Whether there is a kernel for the way there and back, for heads of so many numbers."""
    return device.type == "cuda" and head >= SMALLEST_HEAD


def attend(
    query: Tensor, key: Tensor, value: Tensor, cache: tuple[Tensor, Tensor] | None, layout: Layout, window: int | None,
    scaling: float,
) -> Tensor:  # fmt: skip
    """query [1, H, T, d], key and value [1, KV, T, d], the cache's [KV, G, C, d] → [1, T, H, d]."""
    if cache is not None:
        key, value = (torch.cat([x.flatten(1, 2)[None], y], 2) for x, y in zip(cache, (key, value), strict=True))
    query, key, value = (x.contiguous() for x in (query, key, value))  # laid out alike, they share a kernel
    seen = layout.once(("blocks", window), lambda: blocks(layout, window))
    out: Tensor = compiled(flex_attention)(query, key, value, None, seen, scaling, enable_gqa=True)
    return out.transpose(1, 2)


def blocks(layout: Layout, window: int | None) -> BlockMask:
    """Which keys, cached ones first, the tokens of the sequence see in a layer that sees `window` tokens back, or all.

    All that differs from batch to batch is a tensor, so that one kernel serves every batch.
    """
    queries, keys = places(layout)
    reach = queries.position.new_tensor(torch.iinfo(torch.int64).max if window is None else window)

    def seen(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = queries.position[q] - keys.position[k]
        near = (keys.position[k] >= 0) & (distance >= 0) & (distance < reach)
        branch = keys.branch[k]
        own = (keys.row[k] == queries.row[q]) & ((branch == 0) | (branch == queries.branch[q]))
        own = own & (keys.place[k] <= queries.place[q])
        return near & (keys.group[k] == queries.group[q]) & ((keys.row[k] < 0) | own)

    make = compiled(create_block_mask)
    made: BlockMask = make(seen, None, None, len(queries.row), len(keys.row), device=str(queries.row.device))
    return made


def places(layout: Layout) -> tuple[Places, Places]:
    """Of the queries, which are the tokens of the sequence, and of the keys, the cached ones before them."""
    G, F, (B, n) = layout.groups, layout.prefix_tokens, layout.slots.shape
    cached, ahead = layout.ahead.tensor_split([layout.ahead.shape[1] - F], 1)
    position, behind = layout.positions.tensor_split([G * F])
    row = layout.unpad // n
    rows = Places(row // (B // G), row, layout.branches, torch.arange(len(row), device=row.device), behind)
    prefixes = _of_prefixes(ahead)
    return _joined(prefixes._replace(position=position), rows), _joined(_of_prefixes(cached), prefixes, rows)


def _of_prefixes(position: Tensor) -> Places:
    """By the positions [G, n] of their tokens."""
    group = torch.arange(len(position), device=position.device)[:, None].expand_as(position).flatten()
    nothing = torch.zeros_like(group)
    return Places(group, torch.full_like(group, -1), nothing, nothing, position.flatten())


def _joined(*parts: Places) -> Places:
    return Places(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """For sequences of any length, and never in pieces."""
    dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS)
    return torch.compile(function, dynamic=True, fullgraph=True)
