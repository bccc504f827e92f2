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

PROBE_FRONT = np.array([5, 6, 7, 8], dtype=np.int64)
PROBE = (
    Example(np.array([9, 10, 11, 12, 13]), ((14, 15), (16, 17))),
    Example(np.array([18, 19]), ((20, 21, 22), (23,))),
)
"""Rows that tell whether a model can be packed; any vocabulary holds them."""


@dataclass(frozen=True)
class Front:
    """A front that has been computed: what follows needs only its keys and values."""

    ids: Ids
    cache: list[tuple[Tensor, Tensor]]
    """Per layer, keys and values [H, F, head_dim]."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.cache for tensor in layer)


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
        """Whether rows can be packed: asked of the model, by numbers, and not of a list of families.

        Every layer must take its attention from us, and packed rows must have the log-probabilities of plain ones.
        Raises ForewordError where even padded rows behind a cached front do not have them.
        """
        config = self.model.config.get_text_config()
        chunk = getattr(config, "attention_chunk_size", None)  # seen by no probe that is shorter than a chunk
        if self.model._can_set_attn_implementation() and (chunk is None or chunk >= self.context):
            before = self.model.config._attn_implementation
            expected = self._plain_probe()
            self.model.set_attn_implementation(attention.NAME)
            if self._agrees(expected, packed=True):
                return True
            self.model.set_attn_implementation(before)
        if not self._agrees(self._plain_probe(), packed=False):
            raise ForewordError(
                f"{self.name!r} is of the family {config.model_type!r}, which reads a row differently behind a cached "
                "front; Foreword cannot run it: choose a decoder-only model with attention in every layer"
            )
        return False

    def _plain_probe(self) -> Tensor:
        """Log-probabilities of the probe's answers, one row at a time, as transformers computes them."""
        found: list[Tensor] = []
        with torch.no_grad():
            for example in PROBE:
                for answer in example.answers:
                    ids = torch.tensor([*PROBE_FRONT, *example.question, *answer], device=self.device)
                    logits = self.model(input_ids=ids[None], use_cache=False).logits[0, -len(answer) - 1 : -1]
                    found += torch.log_softmax(logits.float(), -1)[range(len(answer)), answer]
        return torch.stack(found)

    def _agrees(self, expected: Tensor, *, packed: bool) -> bool:
        layers = self.model.config.get_text_config().num_hidden_layers
        try:
            with torch.no_grad():
                if packed:
                    probe = pack(PROBE, PROBE_FRONT, cached=False, device=self.device)
                    logits = self._logits(self.embed(probe.ids, None), probe.layout, probe.read)
                    found = torch.log_softmax(logits.float(), -1)[probe.which, probe.target]
                    if probe.layout.layers != layers:
                        return False
                else:
                    found = log_probs_unpacked(self.model, self.embed, PROBE, PROBE_FRONT, None)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, ForewordError):
            return False  # each family has its own way of not being able to
        apart = (found.float() - expected).abs()
        if self.dtype.itemsize > 2:
            return bool((apart < 1e-3).all())
        return bool(apart.mean() < 0.2 + 0.05 * expected.abs().mean())  # bf16 rounds too coarsely to tell more

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
