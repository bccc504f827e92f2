"""Rows one after another, each with a cache of its own: for families that cannot be batched. Knows ids only.

The same tokens as in a batch, without its speed: BLOOM, MPT and other decoders that cannot be packed, T5, BART.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from foreword.backbone import Backbone
from foreword.serve.engines.local.generation import Generation
from foreword.serve.engines.local.kv_cache import PrefixCaches


class _State:
    """What a row's next token needs."""

    def __init__(self, need: int) -> None:
        self.need = need
        """Bytes of keys and values that it has reserved."""
        self.cache: Any = None
        self.encoded: Tensor | None = None
        """[1, T, D] of an encoder; None without one."""


class SequentialRunner:
    """A `Runner` that runs a row at a time, whatever its family; it keeps no prefix caches."""

    def __init__(self, backbone: Backbone, kv_bytes: int) -> None:
        self.prefix_caches = PrefixCaches(0)
        self.total = kv_bytes
        self._backbone = backbone
        layers, heads, size = backbone.cache_shape
        self._token_bytes = 2 * layers * heads * size * backbone.dtype.itemsize
        self._states: dict[Generation, _State] = {}

    @property
    def used(self) -> int:
        """As `Runner` has it."""
        return sum(state.need for state in self._states.values())

    def _need(self, row: Generation) -> int:
        return self._token_bytes * (len(row.prepared.ids) + row.limit)

    def fits(self, row: Generation) -> bool:
        """As `Runner` has it."""
        return self._need(row) <= self.total

    def admit(self, row: Generation) -> bool:
        """As `Runner` has it."""
        if self.used + self._need(row) > self.total:
            return False
        self._states[row] = _State(self._need(row))
        return True

    def release(self, row: Generation, *, wipe: bool) -> None:  # noqa: ARG002 - nothing is shared
        """As `Runner` has it."""
        del self._states[row]

    def step(self) -> tuple[Sequence[Generation], Tensor | None, int]:
        """As `Runner` has it."""
        rows, read = list(self._states), 0
        if not rows:
            return [], None, 0
        logits = []
        for row, state in self._states.items():
            read += 0 if row.written else len(row.prepared.ids)
            logits.append(self._decode_next(row, state) if row.written else self._prefill(row, state))
        return rows, torch.cat(logits), read

    def _prefill(self, row: Generation, state: _State) -> Tensor:
        backbone, ids, vectors = self._backbone, row.prepared.ids, row.prepared.vectors
        learned = backbone.embedder.learned(ids, vectors)
        cache = backbone.embedder.new_cache(learned)
        embedded = backbone.embedder.embed_row(ids[vectors.prefix :], vectors)[None]
        if not backbone.architecture.answers_apart:
            state.cache = cache
            return self._forward(state, inputs_embeds=embedded)
        state.cache = EncoderDecoderCache(cache, DynamicCache())
        state.encoded = backbone.model.get_encoder()(inputs_embeds=embedded)[0]
        start = backbone.model.generation_config.decoder_start_token_id
        return self._forward(state, decoder_input_ids=torch.tensor([[start]], device=backbone.device))

    def _decode_next(self, row: Generation, state: _State) -> Tensor:
        last = torch.tensor([[row.last]], device=self._backbone.device)
        return self._forward(state, **{"input_ids" if state.encoded is None else "decoder_input_ids": last})

    def _forward(self, state: _State, **inputs: Tensor) -> Tensor:
        """Logits [1, V] behind the last of `inputs`."""
        options: dict[str, Any] = {self._backbone.embedder.takes_cache: state.cache, "use_cache": True, **inputs}
        if state.encoded is not None:
            options["encoder_outputs"] = BaseModelOutput(last_hidden_state=state.encoded)
        logits: Tensor = self._backbone.model(**options).logits[:, -1]
        return logits
