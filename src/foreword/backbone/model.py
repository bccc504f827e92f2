"""The frozen model: embeds ids and vectors, reads rows behind a shared front. Knows ids and tensors, no prompts' text.

`log_probs` is the one computation that tuning, scoring and comparison share.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from foreword.backbone import attention
from foreword.backbone.batch import Example, pack
from foreword.backbone.encode import Ids
from foreword.backbone.unpacked import log_probs_unpacked
from foreword.errors import ForewordError


@dataclass(frozen=True)
class Front:
    """A front that has been computed: what follows needs only its keys and values."""

    ids: Ids
    cache: list[tuple[Tensor, Tensor]]
    """Per layer, keys and values [H, F, head_dim]."""


class FrozenModel:
    """A decoder-only transformers model whose weights never change and never hold a gradient.

    `model` and `tokenizer` are transformers' own objects and may be used directly.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.packs = self._supports_packing()

    @property
    def _embedding(self) -> Tensor:
        """The embedding matrix [V, D]."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.dtype

    @property
    def context(self) -> int:
        """The longest sequence that the model was made for, in tokens."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)

    @property
    def dimension(self) -> int:
        """D, the size of an input embedding."""
        return int(self._embedding.shape[1])

    @property
    def fingerprint(self) -> str:
        """sha256 over shape, tokenizer and embedding matrix: the same whatever dtype the model is loaded in."""
        if not hasattr(self, "_fingerprint"):
            self._fingerprint = _fingerprint(self.model, self.tokenizer)
        return self._fingerprint

    def embed(self, ids: Tensor, virtual: Tensor | None) -> Tensor:
        """Input embeddings [T, D] of ids [T]; an id -1 - i takes row i of `virtual` [P, D]."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.clamp_min(0))
        places = (ids < 0).nonzero().squeeze(1)
        if len(places) == 0:
            return embedded
        if virtual is None:
            raise ForewordError("the prompt has virtual tokens but no vectors yet; tune it first ('foreword tune')")
        # Taken in fp32 and cast after, so that gradients of a token that stands in many rows add up in fp32.
        return embedded.index_put((places,), virtual[-1 - ids[places]].to(embedded.dtype))

    def prefill(self, front: Ids, virtual: Tensor | None) -> Front:
        """Compute a front [F] once, for any number of rows behind it."""
        if len(front) == 0 or not self.packs:
            return Front(front, [])
        with torch.no_grad():
            embedded = self.embed(torch.from_numpy(front).to(self.device), virtual)
            cache = DynamicCache()  # without the config: a sliding window would throw early keys away
            self.model(inputs_embeds=embedded[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Front(front, [(layer.keys[0], layer.values[0]) for layer in cache.layers])

    def log_probs(self, examples: Sequence[Example], front: Ids | Front, virtual: Tensor | None = None) -> Tensor:
        """Log-probability [A] of every answer token, in order of example, answer, token; fp32 or better.

        The front is computed once for all examples, and inside the graph when it is given as ids, so that gradients
        reach `virtual` wherever its tokens stand. A `Front` carries no gradient.
        """
        cached = isinstance(front, Front) and len(front.ids) > 0 and self.packs
        ids = front.ids if isinstance(front, Front) else front
        self._check_length(examples, len(ids))
        if not self.packs:
            return log_probs_unpacked(self.model, self.embed, examples, ids, virtual)
        packed = pack(examples, ids, cached=cached, device=self.device)
        if cached and isinstance(front, Front):
            packed.layout.cache = front.cache
        logits = self._logits(self.embed(packed.ids, virtual), packed.layout, packed.read)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return torch.log_softmax(logits, -1, dtype=dtype)[packed.which, packed.target]

    def _logits(self, embedded: Tensor, layout: attention.Layout, read: Tensor) -> Tensor:
        """Logits [M, V] at `read` [M]: the head runs nowhere else."""
        unused = torch.zeros(1, 1, 1, 1, device=self.device)  # four axes: the model passes it on instead of making one
        output = self.model(
            inputs_embeds=embedded[None],
            position_ids=layout.positions[None],
            attention_mask=unused,
            use_cache=False,
            logits_to_keep=read,
            layout=layout,
        )
        logits: Tensor = output.logits[0]
        return logits

    def _supports_packing(self) -> bool:
        """Whether every layer of this family takes its attention from us; asked of the model, not of a list."""
        if not self.model._can_set_attn_implementation():
            return False
        before = self.model.config._attn_implementation
        layers = self.model.config.get_text_config().num_hidden_layers
        probe = pack([Example(np.zeros(2, np.int64), ((0,),))], np.zeros(1, np.int64), cached=False, device=self.device)
        try:
            self.model.set_attn_implementation(attention.NAME)
            with torch.no_grad():
                logits = self._logits(self.embed(probe.ids, None), probe.layout, probe.read)
            if probe.layout.layers == layers and logits.shape[0] == 1:
                return True
        except (TypeError, ValueError, RuntimeError, IndexError, ForewordError):
            pass  # a family that cannot: rows are padded behind the front's cache instead, exact but slower
        self.model.set_attn_implementation(before)
        return False

    def _check_length(self, examples: Sequence[Example], front: int) -> None:
        longest = max(len(example.question) + max(map(len, example.answers)) for example in examples)
        if front + longest > self.context:
            raise ForewordError(
                f"a row has {front + longest:,} tokens; {self.name!r} reads {self.context:,} at most: shorten it"
            )


def _fingerprint(model: Any, tokenizer: Any) -> str:
    config = model.config.get_text_config()
    shape = [
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    ]
    digest = hashlib.sha256(json.dumps({name: getattr(config, name, None) for name in shape}).encode())
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    digest.update(json.dumps(vocabulary).encode())
    weight = model.get_input_embeddings().weight.detach()
    digest.update(str(list(weight.shape)).encode())
    digest.update(weight.to(torch.bfloat16).contiguous().cpu().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
