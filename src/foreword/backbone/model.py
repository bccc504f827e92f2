"""The frozen model: embeds ids and vectors, reads rows behind a shared front. Knows ids and tensors, no prompts' text.

`log_probs` is the one computation that tuning, scoring and comparison share.
"""

import contextlib
import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from foreword.backbone import attention
from foreword.backbone.batch import Example, Packed, Part, pack
from foreword.backbone.encode import Ids, text_places
from foreword.backbone.layers import Layers
from foreword.backbone.unpacked import log_probs_unpacked
from foreword.backbone.vectors import NONE, LayerCache, Vectors
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
    cache: LayerCache
    """Per layer, keys and values [H, F, head_dim]; empty where the model takes no packed rows."""

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
        parameters = inspect.signature(model.forward).parameters
        self.takes_cache = "cache" if "cache" in parameters else "past_key_values"  # transformers 5.24 renamed it
        self.saves_memory = False
        """Whether layers are computed twice inside the graph: the same results, slower, in less memory."""
        self.layers = Layers(model, ())
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
    def cache_shape(self) -> tuple[int, int, int]:
        """L, H and head_dim: layers, KV heads, and the size of a key."""
        config = self.model.config.get_text_config()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, size

    @property
    def fingerprint(self) -> str:
        """sha256 over shape, tokenizer and embedding matrix: the same whatever dtype the model is loaded in."""
        if not hasattr(self, "_fingerprint"):
            self._fingerprint = _fingerprint(self.model, self.tokenizer)
        return self._fingerprint

    def embed(self, ids: Tensor, vectors: Vectors = NONE, offsets: Tensor | None = None) -> Tensor:
        """Input embeddings [T, D] of ids [T]; an id -1 - i takes row i of the virtual tokens [P, D].

        `offsets` [T] says which row of `vectors.offsets` is added to each token, -1 for none.
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

    def embed_row(self, ids: Ids, vectors: Vectors = NONE, before: int = 0) -> Tensor:
        """Input embeddings [T, D] of one row or front, or of what follows `before` text tokens of it."""
        offsets = None if vectors.offsets is None else torch.from_numpy(text_places(ids, before, vectors.length))
        moved = None if offsets is None else offsets.to(self.device)
        return self.embed(torch.from_numpy(ids).to(self.device), vectors, moved)

    def prefill(self, front: Ids, vectors: Vectors = NONE) -> Front:
        """Compute a front [F] once, for any number of rows behind it."""
        if len(front) == 0 or not self.packs:
            return Front(front, ())
        return Front(front, self.keys_and_values(front, vectors))

    def keys_and_values(self, ids: Ids, vectors: Vectors = NONE) -> LayerCache:
        """What the model keeps of a row or front that it has read."""
        cache = self.new_cache(self.learned(ids, vectors))
        if P := len(ids) - vectors.prefix:
            with torch.no_grad():
                embedded = self.embed_row(ids[-P:], vectors)[None]
                self.model(inputs_embeds=embedded, use_cache=True, logits_to_keep=1, **{self.takes_cache: cache})
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def learned(self, front: Ids, vectors: Vectors) -> LayerCache:
        """The keys and values of a prefix, in this model's dtype; checks that it stands at the very front."""
        if (P := vectors.prefix) and (len(front) < P or (front[:P] != np.arange(-1, -1 - P, -1)).any()):
            raise ForewordError(
                f"a prefix of {P} keys and values stands before everything: its prompt must begin with "
                f"{{{{ virtual({P}) }}}}, and hold no other virtual tokens"
            )
        return vectors.cache(self._embedding)

    def new_cache(self, learned: LayerCache, rows: int = 1) -> DynamicCache:
        """A cache that begins with `learned` keys and values, the same for all rows."""
        cache = DynamicCache()  # without the config: a sliding window would throw early keys away
        for layer, (keys, values) in enumerate(learned):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache

    def log_probs(self, examples: Sequence[Example], front: Ids | Front, vectors: Vectors = NONE) -> Tensor:
        """Log-probability [A] of every answer token, in order of example, answer, token; fp32 or better.

        The front is computed once for all examples, and inside the graph when it is given as ids, so that gradients
        reach `vectors` wherever they stand. A `Front` carries no gradient.
        """
        return self.log_probs_mixed([self.part(examples, front, vectors)])

    def part(self, examples: Sequence[Example], front: Ids | Front, vectors: Vectors = NONE) -> Part:
        """Rows of one prompt, ready to share a batch with those of others."""
        if isinstance(front, Front) and front.cache:
            return Part(examples, front.ids, vectors, front.cache)
        ids = front.ids if isinstance(front, Front) else front
        return Part(examples, ids, vectors, self.learned(ids, vectors))

    def log_probs_mixed(self, parts: Sequence[Part]) -> Tensor:
        """The same for rows of several prompts in one batch [A], in order of part, example, answer, token."""
        for part in parts:
            self._check_length(part.examples, len(part.front))
        if not self.packs:
            return torch.cat([log_probs_unpacked(self, part) for part in parts])
        packed = pack(parts, self.device)
        logits = self._logits(packed, _all_vectors(parts))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return torch.log_softmax(logits, -1, dtype=dtype)[packed.which, packed.target]

    def _logits(self, packed: Packed, vectors: Vectors) -> Tensor:
        """Logits [M, V] at the places that are read: the head runs nowhere else."""
        unused = torch.zeros(1, 1, 1, 1, device=self.device)  # four axes: the model passes it on instead of making one
        embedded = self.embed(packed.ids, vectors, packed.offsets)[None]
        saving = self.saves_memory and torch.is_grad_enabled()
        with self.layers.twice(packed.layout) if saving else contextlib.nullcontext():
            output = self.model(
                inputs_embeds=embedded,
                position_ids=packed.layout.positions[None],
                attention_mask=unused,
                use_cache=False,
                logits_to_keep=packed.read,
                layout=packed.layout,
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
                    probe = pack([Part(PROBE, PROBE_FRONT)], self.device)
                    logits = self._logits(probe, NONE)
                    found = torch.log_softmax(logits.float(), -1)[probe.which, probe.target]
                    if len(probe.layout.windows) != layers:
                        return False
                    self.layers = Layers(self.model, probe.layout.windows)
                else:
                    found = log_probs_unpacked(self, Part(PROBE, PROBE_FRONT))
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


def _all_vectors(parts: Sequence[Part]) -> Vectors:
    """The virtual tokens and offsets of all parts, one part's behind another's, as `pack` counts them."""
    embeddings = [part.vectors.embeddings for part in parts if part.vectors.embeddings is not None]
    offsets = [part.vectors.offsets for part in parts if part.vectors.offsets is not None]
    return Vectors(
        embeddings=torch.cat(embeddings) if embeddings else None, offsets=torch.cat(offsets) if offsets else None
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
