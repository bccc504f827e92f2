"""Token ids and learned vectors as what a transformers model takes in: embeddings, and caches that begin with keys and
values. Knows tensors; knows neither how a kind of model reads them nor any prompt's text.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from foreword.backbone.encode import Ids, text_places
from foreword.backbone.vectors import NO_VECTORS, LayerCache, Vectors
from foreword.errors import ForewordError


class InputEmbedder:
    """What goes into one transformers model; architectures share it. `name` is the backbone's, for errors."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        parameters = inspect.signature(model.forward).parameters
        self.takes_cache = "cache" if "cache" in parameters else "past_key_values"  # transformers 5.24 renamed it

    @property
    def weight(self) -> Tensor:
        """The embedding matrix [V, D]."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In which the model computes."""
        return self.weight.dtype

    @property
    def context(self) -> int:
        """The longest sequence that the model was made for, in tokens.

        Where longer rows would turn all rows of a batch another way (`longrope`, `dynamic`), it ends before them.
        """
        config = self.model.config.get_text_config()
        longest = int(getattr(config, "max_position_embeddings", None) or 2**31)
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") in ("longrope", "dynamic"):
            first = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return min(longest, int(first or longest))
        return longest

    def embed(self, ids: Tensor, vectors: Vectors = NO_VECTORS, offsets: Tensor | None = None) -> Tensor:
        """Input embeddings [T, D] of ids [T]; an id -1 - i takes row i of the virtual tokens [P, D].

        `offsets` [T] says which row of `vectors.offsets` is added to each token, -1 for none. Raises ForewordError
        where there are virtual tokens and no vectors for them.
        """
        embedded: Tensor = self.model.get_input_embeddings()(ids.clamp_min(0))
        if len(places := (ids < 0).nonzero().squeeze(1)):
            if vectors.embeddings is None:
                raise ForewordError("the prompt has virtual tokens but no vectors yet; tune it first ('foreword tune')")
            # Taken in fp32 and cast after, so that gradients of a token that stands in many rows add up in fp32.
            embedded = embedded.index_put((places,), vectors.embeddings[-1 - ids[places]].to(embedded.dtype))
        if offsets is not None and vectors.offsets is not None:
            places = (offsets >= 0).nonzero().squeeze(1)
            embedded = embedded.index_add(0, places, vectors.offsets[offsets[places]].to(embedded.dtype))
        return embedded

    def embed_row(self, ids: Ids, vectors: Vectors = NO_VECTORS, before: int = 0, asked: int | None = None) -> Tensor:
        """Input embeddings [T, D] of one row or shared prefix, or of what follows `before` text tokens of it.

        Tokens past the first `asked` are an answer's, which offsets are not added to.
        """
        places = text_places(ids, before, vectors.length)
        places[len(ids) if asked is None else asked :] = -1
        moved = None if vectors.offsets is None else torch.from_numpy(places).to(self.device)
        return self.embed(torch.from_numpy(ids).to(self.device), vectors, moved)

    def learned(self, ids: Ids, vectors: Vectors) -> LayerCache:
        """The keys and values of a prefix, in this model's dtype. Raises ForewordError where `ids` do not begin so."""
        if (P := vectors.prefix) and (len(ids) < P or (ids[:P] != np.arange(-1, -1 - P, -1)).any()):
            raise ForewordError(
                f"a prefix of {P} keys and values stands before everything: its prompt must begin with "
                f"{{{{ virtual({P}) }}}}, and hold no other virtual tokens"
            )
        return vectors.cache(self.weight)

    def new_cache(self, learned: LayerCache, rows: int = 1) -> DynamicCache:
        """A cache that begins with `learned` keys and values, the same for all rows."""
        cache = DynamicCache()  # without the config: a sliding window would throw early keys away
        for layer, (keys, values) in enumerate(learned):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache

    def keys_and_values(self, ids: Ids, vectors: Vectors, fill: Callable[[DynamicCache, Tensor], None]) -> LayerCache:
        """What the model keeps of a row or shared prefix that it has read; `fill` is its architecture's."""
        cache = self.new_cache(self.learned(ids, vectors))
        if n := len(ids) - vectors.prefix:
            with torch.no_grad():
                fill(cache, self.embed_row(ids[-n:], vectors)[None])
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]
