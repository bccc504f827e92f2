"""Fronts that have been computed, the least used thrown away beyond a number of bytes. Knows keys and values only."""

from collections import OrderedDict

from foreword.backbone.model import PrefixCache
from foreword.backbone.vectors import LayerCache
from foreword.prompts import Prompt
from foreword.serve.engines.seam import ModelError

Key = tuple[str, bytes]
"""The prompt's digest, and the ids of the front."""


def check(prompt: Prompt, cache: LayerCache) -> None:
    """Raises ModelError for a front that no row may stand behind, nor other prompts' fronts beside."""
    if not all(tensor.isfinite().all() for layer in cache for tensor in layer):
        raise ModelError(f"prompt {prompt.name!r} gives NaN or infinity on this backbone: tune it again")


class Fronts:
    """An LRU bounded in bytes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.hits = 0
        self.misses = 0
        self._kept: OrderedDict[Key, PrefixCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> PrefixCache | None:
        """The front, which is then the last to go; counts nothing."""
        front = self._kept.get(key)
        if front is not None:
            self._kept.move_to_end(key)
        return front

    def put(self, key: Key, front: PrefixCache) -> None:
        """Keep a front; one that is larger than all the room is not kept."""
        if key in self._kept or front.nbytes > self.total:
            return
        self._kept[key] = front
        self.used += front.nbytes
        while self.used > self.total:
            _, lost = self._kept.popitem(last=False)
            self.used -= lost.nbytes

    def __contains__(self, key: Key) -> bool:
        return key in self._kept
