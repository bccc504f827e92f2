"""What a soft prompt gives a model, as tensors, in the graph while it is learned. Knows no files and no templates."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

LayerCache = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of what has been read, or learned: per layer two [H, C, head_dim]."""


@dataclass(frozen=True)
class Vectors:
    """The learned part of one prompt. Fields are named as in the prompt's safetensors file; absent ones are None."""

    embeddings: Tensor | None = None
    """[P, D] virtual tokens, on the scale of the model's input embeddings."""
    keys: Tensor | None = None
    """[L, H, P, head_dim] prefix tuning: what stands in the cache before every token; no rotation is applied to it."""
    values: Tensor | None = None
    """[L, H, P, head_dim]"""
    offsets: Tensor | None = None
    """[S, D] added to the embedding of a prompt's first S text tokens, virtual ones not counted (DePT)."""

    @property
    def prefix(self) -> int:
        """P where the virtual tokens are keys and values, else 0."""
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def count(self) -> int:
        """P where the virtual tokens are embeddings, else 0."""
        return 0 if self.embeddings is None else len(self.embeddings)

    @property
    def length(self) -> int:
        """S, the offsets there are."""
        return 0 if self.offsets is None else len(self.offsets)

    def cache(self, like: Tensor) -> LayerCache:
        """The prefix, layer by layer, in the dtype and on the device of `like`; empty without one."""
        if self.keys is None or self.values is None:
            return ()
        return [(k.to(like), v.to(like)) for k, v in zip(self.keys, self.values, strict=True)]


NO_VECTORS = Vectors()
"""A hard prompt's."""
