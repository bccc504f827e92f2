"""Keys and values in slots of few sizes, and the prefix caches of prompts, each within a number of bytes.

Knows shapes; knows no rows. Slots of one size stand in one tensor, so that all rows in them are read by one batched
product. A slot that is given back keeps finite numbers: what is masked out of a softmax is multiplied by zero, and
zero times NaN would be NaN.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from foreword.backbone import LayerCache, PrefixCache
from foreword.prompts import Prompt
from foreword.serve.engines.seam import ModelError

SMALLEST = 32
"""Tokens of the smallest slot; every next size has twice as many."""


@dataclass(frozen=True)
class KVShape:
    """What a token's keys and values take: `size` is head_dim, `heads` are KV heads."""

    layers: int
    heads: int
    size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's keys and values in all layers."""
        return 2 * self.layers * self.heads * self.size * self.dtype.itemsize


class Arena:
    """Slots of `tokens` tokens each."""

    def __init__(self, shape: KVShape, tokens: int) -> None:
        self.shape, self.tokens = shape, tokens
        self.slot_bytes = shape.token_bytes * tokens
        self.keys = [self._new(0) for _ in range(shape.layers)]
        """Per layer [S, H, tokens, head_dim]."""
        self.values = [self._new(0) for _ in range(shape.layers)]
        self._free: list[int] = []
        self.slots = 0

    @property
    def free(self) -> int:
        """Slots that are not in use."""
        return len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of all its slots."""
        return self.slots * self.slot_bytes

    def take(self) -> int:
        """The lowest free slot: rows that stand close together are read together."""
        return heapq.heappop(self._free)

    def give_back(self, slot: int) -> None:
        """Free a slot."""
        heapq.heappush(self._free, slot)

    def wipe(self, slot: int) -> None:
        """Leave nothing of a row whose numbers are not finite."""
        for tensor in (*self.keys, *self.values):
            tensor[slot].zero_()

    def resize(self, slots: int) -> None:
        """More slots, or fewer where the last ones are free."""
        kept = min(slots, self.slots)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._new(slots)
                tensors[layer][:kept] = old[:kept]
        self._free = sorted({*(s for s in self._free if s < slots), *range(self.slots, slots)})
        self.slots = slots

    def unused(self) -> int:
        """Free slots behind the last one in use."""
        free, count = set(self._free), 0
        while count < self.slots and self.slots - 1 - count in free:
            count += 1
        return count

    def _new(self, slots: int) -> Tensor:
        shape = self.shape
        return torch.zeros(slots, shape.heads, self.tokens, shape.size, dtype=shape.dtype, device=shape.device)


@dataclass(frozen=True)
class Slot:
    """A slot in use, the one with this `index` in its arena."""

    arena: Arena
    index: int

    def layer(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of its first `tokens` tokens: two [H, tokens, head_dim], views."""
        return self.arena.keys[layer][self.index, :, :tokens], self.arena.values[layer][self.index, :, :tokens]

    def write(self, cache: LayerCache) -> None:
        """Fill its first places, per layer two [H, T, head_dim]."""
        for layer, (keys, values) in enumerate(cache):
            mine = self.layer(layer, keys.shape[1])
            mine[0].copy_(keys)
            mine[1].copy_(values)

    def read(self, tokens: int) -> LayerCache:
        """A copy of its first `tokens` tokens, per layer two [H, T, head_dim]."""
        return [(k.clone(), v.clone()) for k, v in (self.layer(i, tokens) for i in range(self.arena.shape.layers))]


class KVMemory:
    """All slots, of rows and of the shared prefixes before them, in `total` bytes at most."""

    def __init__(self, shape: KVShape, total: int) -> None:
        self.shape, self.total = shape, total
        self._arenas: dict[tuple[str, int], Arena] = {}
        self.used = 0
        """Bytes of slots in use."""

    def size_for(self, tokens: int) -> int:
        """Tokens of the smallest slot that holds so many."""
        size = SMALLEST
        while size < tokens:
            size *= 2
        return size

    def bytes_for(self, tokens: int) -> int:
        """Bytes of the slot that holds so many tokens."""
        return self.size_for(tokens) * self.shape.token_bytes

    def take(self, kind: str, tokens: int) -> Slot | None:
        """A slot for `tokens` tokens; None while there is no room. Slots of one `kind` stand together."""
        size = self.size_for(tokens)
        arena = self._arenas.setdefault((kind, size), Arena(self.shape, size))
        if not arena.free and not self._grow(arena):
            return None
        self.used += arena.slot_bytes
        return Slot(arena, arena.take())

    def give_back(self, slot: Slot) -> None:
        """Free a slot."""
        slot.arena.give_back(slot.index)
        self.used -= slot.arena.slot_bytes

    def wipe(self, slot: Slot) -> None:
        """Leave no non-finite number of a row in its slot."""
        slot.arena.wipe(slot.index)

    def _grow(self, arena: Arena) -> bool:
        """By half if there is room, else by one slot, if need be by what other sizes do not use."""
        for more in (max(1, arena.slots // 2), 1):
            if sum(a.nbytes for a in self._arenas.values()) + more * arena.slot_bytes <= self.total:
                arena.resize(arena.slots + more)
                return True
            for other in self._arenas.values():
                if unused := other.unused():
                    other.resize(other.slots - unused)
        return False


Key = tuple[str, bytes]
"""The prompt's digest, and the ids of its shared prefix."""


def check_finite(prompt: Prompt, cache: LayerCache) -> None:
    """Raises ModelError for non-finite keys or values, which would reach every row that attends to them."""
    if not all(tensor.isfinite().all() for layer in cache for tensor in layer):
        raise ModelError(f"prompt {prompt.name!r} gives NaN or infinity on this backbone: tune it again")


class PrefixCaches:
    """The prefix caches of prompts, up to `total` bytes; the one used longest ago goes first."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        """Bytes of what is kept."""
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[Key, PrefixCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> PrefixCache | None:
        """The prefix cache, which is then the last to go; counts neither a hit nor a miss."""
        cache = self._kept.get(key)
        if cache is not None:
            self._kept.move_to_end(key)
        return cache

    def put(self, key: Key, cache: PrefixCache) -> None:
        """Keep a prefix cache; one that is larger than all the room is not kept."""
        if key in self._kept or cache.nbytes > self.total:
            return
        self._kept[key] = cache
        self.used += cache.nbytes
        while self.used > self.total:
            _, lost = self._kept.popitem(last=False)
            self.used -= lost.nbytes

    def __contains__(self, key: Key) -> bool:
        return key in self._kept
