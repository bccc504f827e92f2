"""The frozen model: embeds ids and vectors, reads rows behind a shared prefix. Knows ids and tensors, no prompts' text.

`log_probs` is the one computation that tuning, scoring and comparison share.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foreword.backbone.architecture import Architecture
from foreword.backbone.batch import Example, Part, PrefixCache
from foreword.backbone.decoder_only import DecoderOnly
from foreword.backbone.encode import Ids
from foreword.backbone.input_embedder import InputEmbedder
from foreword.backbone.seq2seq import EncoderDecoder
from foreword.backbone.vectors import NO_VECTORS, LayerCache, Vectors
from foreword.errors import ForewordError


class FrozenModel:
    """A transformers model whose weights never change and never hold a gradient.

    `model` and `tokenizer` are transformers' own objects and may be used directly. `architecture` makes what knows how
    such a model reads; None: by its config.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        architecture: Callable[[InputEmbedder], Architecture] | None = None,
    ) -> None:
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
            model.set_attn_implementation("eager")  # transformers before 5.24 takes sdpa, which leaves the cap out
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.embedder = InputEmbedder(self.model, name)
        kind = EncoderDecoder if model.config.is_encoder_decoder else DecoderOnly
        self.architecture: Architecture = (architecture or kind)(self.embedder)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.embedder.device

    @property
    def dtype(self) -> torch.dtype:
        """In which the model computes."""
        return self.embedder.dtype

    @property
    def packs(self) -> bool:
        """Whether shared prefixes are computed once."""
        return self.architecture.packs

    @property
    def context(self) -> int:
        """The longest sequence that the model was made for, in tokens."""
        return self.embedder.context

    @property
    def vocabulary(self) -> int:
        """V, the tokens that have both a name and an embedding."""
        return min(len(self.tokenizer), self.embeddings)

    @property
    def embeddings(self) -> int:
        """Tokens that have an embedding, named or not."""
        return len(self.embedder.weight)

    @property
    def dimension(self) -> int:
        """D, the size of an input embedding."""
        return int(self.embedder.weight.shape[1])

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """L, H and head_dim: layers, KV heads, and the size of a key."""
        return self.architecture.cache_shape

    @property
    def fingerprint(self) -> str:
        """sha256 over shape, tokenizer and embedding matrix: the same whatever dtype the model is loaded in."""
        if not hasattr(self, "_fingerprint"):
            self._fingerprint = _fingerprint(self.model, self.tokenizer)
        return self._fingerprint

    def prefill(self, shared_prefix: Ids, vectors: Vectors = NO_VECTORS) -> PrefixCache:
        """Compute a shared prefix [F] once, for any number of rows behind it."""
        if len(shared_prefix) == 0 or not self.packs:
            return PrefixCache(shared_prefix, ())
        return PrefixCache(shared_prefix, self.keys_and_values(shared_prefix, vectors))

    def keys_and_values(self, ids: Ids, vectors: Vectors = NO_VECTORS) -> LayerCache:
        """What the model keeps of a row or shared prefix that it has read: per layer, keys and values."""
        return self.embedder.keys_and_values(ids, vectors, self.architecture.fill)

    def log_probs(
        self, examples: Sequence[Example], shared_prefix: Ids | PrefixCache, vectors: Vectors = NO_VECTORS
    ) -> Tensor:
        """Log-probability [A] of every answer token, in order of example, answer, token; fp32 or better.

        The shared prefix is computed once for all examples, and inside the graph when it is given as ids, so that
        gradients reach `vectors` wherever they stand. A `PrefixCache` carries no gradient.
        """
        return self.log_probs_mixed([self.part(examples, shared_prefix, vectors)])

    def part(
        self, examples: Sequence[Example], shared_prefix: Ids | PrefixCache, vectors: Vectors = NO_VECTORS
    ) -> Part:
        """Rows of one prompt, ready to share a batch with those of others."""
        if isinstance(shared_prefix, PrefixCache) and shared_prefix.cache:
            return Part(examples, shared_prefix.ids, vectors, shared_prefix.cache)
        ids = shared_prefix.ids if isinstance(shared_prefix, PrefixCache) else shared_prefix
        return Part(examples, ids, vectors, self.embedder.learned(ids, vectors))

    def log_probs_mixed(self, parts: Sequence[Part]) -> Tensor:
        """The same for rows of several prompts in one batch [A], in order of part, example, answer, token."""
        for part in parts:
            self._check_length(part)
        return self.architecture.log_probs(parts)

    def _check_length(self, part: Part) -> None:
        longest = max(
            self.architecture.span(len(part.shared_prefix) + len(example.question), len(answer), part.vectors.prefix)
            for example in part.examples
            for answer in example.answers
        )
        if longest > self.context:
            raise ForewordError(
                f"a row has {longest:,} tokens; {self.name!r} reads {self.context:,} at most: shorten it"
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
