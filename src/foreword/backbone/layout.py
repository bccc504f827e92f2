"""Where the tokens of rows read together stand, and what each may see. Knows tensors; knows no prompts and no tasks.

`[shared prefix | row 1 | row 2 | …]` without padding, where every row token attends to the shared prefix and to its own
row; several prompts may stand in one sequence, each with a shared prefix of its own.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")
NEVER = -1e9
"""Added to a score that must not count; finite, so that no row of a softmax can be empty."""


class Masks(NamedTuple):
    """What to add to scores: 0 where a key is seen, `NEVER` where it is not."""

    inside: Tensor | None
    """[G, 1, F, C + F] prefix to prefix; None where no shared prefix is part of the sequence."""
    own: Tensor
    """[B or 1, 1, n, n] row to row."""
    behind: Tensor | None
    """[B, 1, n or 1, C + F] row to prefix; None where every row token sees the whole shared prefix."""


@dataclass
class Layout:
    """Where the tokens of a packed sequence of T = G · F + N tokens stand: G shared prefixes of F tokens, then all
    rows.

    G prompts may share a batch, each with a shared prefix of its own and R rows behind it (B = G · R). What a prefix
    begins with may come from a cache of C keys and values; one that is cached as a whole leaves F = 0. Prefixes that
    are shorter than others, and prompts with fewer rows, are filled up, and what fills them is never seen.
    """

    groups: int
    """G: shared prefixes, each with the rows behind it."""
    prefix_tokens: int
    """F: tokens of every shared prefix that are part of the sequence."""
    positions: Tensor
    """[T] position of every token in its own row's context, the shared prefix counted."""
    ahead: Tensor
    """[G, C + F] positions of what stands before the rows, cached keys first; -1 where there is nothing."""
    slots: Tensor
    """[B, n] for every place of the padded rows, the token (0 … T-1) that fills it; padding repeats a row's first."""
    unpad: Tensor
    """[N] for every row token, its place in the flattened `slots`."""
    branches: Tensor
    """[N] for every row token, the branch of its row that it stands in, which only the branch itself sees; 0 for what
    stands before all branches."""
    cache: Sequence[tuple[Tensor, Tensor]] = ()
    """Keys and values computed before: per layer two [H, G, C, head_dim]."""
    windows: list[int | None] = field(default_factory=list)
    """Of the layers that have used this layout so far; a model that ignores it is found out by their number."""
    fused: bool = False
    """Whether one kernel reads it (`flex`)."""
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def masks(self, window: int | None, dtype: torch.dtype) -> Masks:
        """For layers that see `window` tokens back, or all."""
        return self.once(("masks", window, dtype), lambda: self._masks(window, dtype))

    def _masks(self, window: int | None, dtype: torch.dtype) -> Masks:
        at = self.positions[self.slots]
        ahead = self.ahead[:, None]
        here = self.ahead[:, self.ahead.shape[1] - self.prefix_tokens :, None]
        inside = (ahead >= 0) & (ahead <= here)
        own = self._own()
        rows = len(at) // self.groups
        behind = (ahead >= 0).repeat_interleave(rows, 0)  # [B, 1, C + F]
        if window is not None and int(at.max()) >= window:
            own = own & (at[:, :, None] - at[:, None, :] < window)
            inside = inside & (here - ahead < window)
            behind = behind & (at[:, :, None] - ahead.repeat_interleave(rows, 0) < window)
        return Masks(
            additive(inside, dtype)[:, None] if self.prefix_tokens else None,
            additive(own, dtype)[:, None],
            None if behind.all() else additive(behind, dtype)[:, None],
        )

    def _own(self) -> Tensor:
        """[B or 1, n, n] bool: causal, and across branches closed. One for all rows where no row has branches."""
        causal = torch.ones(self.slots.shape[1:] * 2, dtype=torch.bool, device=self.slots.device).tril()
        if not self.branches.any():
            return causal[None]
        branch = self.branches[self.slots - self.groups * self.prefix_tokens]
        return causal & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))

    def once(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` makes of this layout, for the first layer that wants it and all after it."""
        if name not in self._made:
            self._made[name] = make()
        found: Made = self._made[name]
        return found

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
