"""Where the tokens of rows read together stand, and what each may see. Knows tensors; knows no prompts and no tasks.

`[front | row 1 | row 2 | …]` without padding, where every row token attends to the front and to its own row; several
prompts may stand in one sequence, each with a front of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from foreword.backbone import flex
from foreword.backbone.flex import Places

NEVER = -1e9
"""Added to a score that must not count; finite, so that no row of a softmax can be empty."""


class Masks(NamedTuple):
    """What to add to scores: 0 where a key is seen, `NEVER` where it is not."""

    inside: Tensor | None
    """[G or 1, 1, F, C + F] front to front; None where no front is part of the sequence."""
    own: Tensor
    """[B or 1, 1, n, n] row to row."""
    behind: Tensor | None
    """[B, 1, n or 1, C + F] row to front; None where every row token sees the whole front."""


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
    _masks: dict[tuple[int | None, torch.dtype], Masks] = field(default_factory=dict)
    _blocks: dict[int | None, BlockMask] = field(default_factory=dict)

    def masks(self, window: int | None, dtype: torch.dtype) -> Masks:
        """For layers that see `window` tokens back, or all."""
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
            self._masks[key] = Masks(
                additive(inside, dtype)[:, None] if self.front else None,
                additive(own, dtype)[:, None],
                None if behind.all() else additive(behind, dtype)[:, None],
            )
        return self._masks[key]

    def blocks(self, window: int | None) -> BlockMask:
        """The same for a kernel that reads cached keys and then the whole sequence, front and rows alike."""
        if window not in self._blocks:
            G, F, (B, n), device = self.fronts, self.front, self.slots.shape, self.positions.device
            nothing = self.positions.new_zeros(G * F)
            group = torch.arange(G, device=device)
            row = torch.cat([nothing - 1, self.unpad // n])
            place = torch.cat([nothing, self.unpad % n])
            groups = torch.cat([group.repeat_interleave(F), self.unpad // n // (B // G)])
            queries = Places(groups, row, place, self.positions)
            cached, ahead = self.ahead.expand(G, -1).tensor_split([self.ahead.shape[1] - F], 1)
            none = cached.new_zeros(cached.numel())
            before = Places(group.repeat_interleave(cached.shape[1]), none - 1, none, cached.flatten())
            here = queries._replace(position=torch.cat([ahead.flatten(), self.positions[G * F :]]))
            keys = Places(*(torch.cat(pair) for pair in zip(before, here, strict=True)))
            self._blocks[window] = flex.blocks(queries, keys, self.visible, window)
        return self._blocks[window]

    def next_layer(self, window: int | None) -> "Placed":
        """For the next layer in turn."""
        cache = self.cache[len(self.windows)] if self.cache else None
        self.windows.append(window)
        return Placed(self, window, cache)


class Placed(NamedTuple):
    """What one layer needs of a layout."""

    layout: Layout
    window: int | None
    cache: tuple[Tensor, Tensor] | None


class OwnLayout:
    """A layout that attends in a way of its own, such as over keys and values that rows keep between steps."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """For the next layer in turn: query [1, H, T, d], key and value [1, KV, T, d] → [1, T, H, d]."""
        raise NotImplementedError


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that only the allowed ones count."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, NEVER)
