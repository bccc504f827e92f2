"""The frozen model: embeds ids and vectors, reads rows behind a shared prefix. Knows ids and tensors, no prompts' text.

`log_probs` is the one computation that tuning, scoring and comparison share.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from foreword.backbone.batch import Example, Part
from foreword.backbone.decoder_only import DecoderOnly
from foreword.backbone.encode import Ids, text_places
from foreword.backbone.seq2seq import EncoderDecoder
from foreword.backbone.vectors import NONE, LayerCache, Vectors
from foreword.errors import ForewordError


class Architecture(Protocol):
    """How a kind of model reads a prompt and gives its answer: all that differs from one kind to another."""

    packs: bool
    """Whether what all rows begin with is computed once, and rows share one sequence."""
    answers_apart: bool
    """Whether an answer is a text of its own, and not the rest of the prompt's."""

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """L, H and head_dim of the self-attention that a prefix stands in."""
        ...

    def span(self, read: int, write: int, prefix: int = 0) -> int:
        """Tokens of the longest sequence, where `read` are the prompt's, its `prefix` counted, and `write` answer."""
        ...

    def fill(self, cache: DynamicCache, embedded: Tensor) -> None:
        """Put the keys and values of embeddings [1, T, D] into `cache`, behind what is in it."""
        ...

    def log_probs(self, parts: Sequence[Part]) -> Tensor:
        """[A] for every answer token, in order of part, example, answer, token; fp32 or better."""
        ...

    def save_memory(self) -> bool:
        """Compute layers twice inside the graph from now on. False where they are already, or cannot be."""
        ...

    def generate(self, rows: Sequence[Tensor], cache: DynamicCache | None, **options: Any) -> Tensor:
        """New ids [B, t] for rows of embeddings [T, D], through transformers' `generate` with its `options`."""
        ...


@dataclass(frozen=True)
class PrefixCache:
    """A shared prefix that has been computed: the rows behind it need only its keys and values.

    The shared prefix is what all rows of a prompt begin with: the static part of its template, virtual tokens included.
    """

    ids: Ids
    """[F] of the shared prefix."""
    cache: LayerCache
    """Per layer, keys and values [H, F, head_dim]; empty where the model takes no packed rows."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.cache for tensor in layer)


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
        architecture: "Callable[[FrozenModel], Architecture] | None" = None,
    ) -> None:
        if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
            model.set_attn_implementation("eager")  # transformers before 5.24 takes sdpa, which leaves the cap out
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        parameters = inspect.signature(model.forward).parameters
        self.takes_cache = "cache" if "cache" in parameters else "past_key_values"  # transformers 5.24 renamed it
        kind = EncoderDecoder if model.config.is_encoder_decoder else DecoderOnly
        self.architecture: Architecture = (architecture or kind)(self)

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
    def packs(self) -> bool:
        """Whether shared prefixes are computed once."""
        return self.architecture.packs

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

    @property
    def vocabulary(self) -> int:
        """V, the tokens that have both a name and an embedding."""
        return min(len(self.tokenizer), self.embeddings)

    @property
    def embeddings(self) -> int:
        """Tokens that have an embedding, named or not."""
        return len(self._embedding)

    @property
    def dimension(self) -> int:
        """D, the size of an input embedding."""
        return int(self._embedding.shape[1])

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

    def embed_row(self, ids: Ids, vectors: Vectors = NONE, before: int = 0, asked: int | None = None) -> Tensor:
        """Input embeddings [T, D] of one row or shared prefix, or of what follows `before` text tokens of it.

        Tokens past the first `asked` are an answer's, which offsets are not added to.
        """
        places = text_places(ids, before, vectors.length)
        places[len(ids) if asked is None else asked :] = -1
        moved = None if vectors.offsets is None else torch.from_numpy(places).to(self.device)
        return self.embed(torch.from_numpy(ids).to(self.device), vectors, moved)

    def prefill(self, shared_prefix: Ids, vectors: Vectors = NONE) -> PrefixCache:
        """Compute a shared prefix [F] once, for any number of rows behind it."""
        if len(shared_prefix) == 0 or not self.packs:
            return PrefixCache(shared_prefix, ())
        return PrefixCache(shared_prefix, self.keys_and_values(shared_prefix, vectors))

    def keys_and_values(self, ids: Ids, vectors: Vectors = NONE) -> LayerCache:
        """What the model keeps of a row or shared prefix that it has read."""
        cache = self.new_cache(self.learned(ids, vectors))
        if P := len(ids) - vectors.prefix:
            with torch.no_grad():
                self.architecture.fill(cache, self.embed_row(ids[-P:], vectors)[None])
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def learned(self, ids: Ids, vectors: Vectors) -> LayerCache:
        """The keys and values of a prefix, in this model's dtype; checks that `ids` begin with it."""
        if (P := vectors.prefix) and (len(ids) < P or (ids[:P] != np.arange(-1, -1 - P, -1)).any()):
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

    def log_probs(
        self, examples: Sequence[Example], shared_prefix: Ids | PrefixCache, vectors: Vectors = NONE
    ) -> Tensor:
        """Log-probability [A] of every answer token, in order of example, answer, token; fp32 or better.

        The shared prefix is computed once for all examples, and inside the graph when it is given as ids, so that
        gradients reach `vectors` wherever they stand. A `PrefixCache` carries no gradient.
        """
        return self.log_probs_mixed([self.part(examples, shared_prefix, vectors)])

    def part(self, examples: Sequence[Example], shared_prefix: Ids | PrefixCache, vectors: Vectors = NONE) -> Part:
        """Rows of one prompt, ready to share a batch with those of others."""
        if isinstance(shared_prefix, PrefixCache) and shared_prefix.cache:
            return Part(examples, shared_prefix.ids, vectors, shared_prefix.cache)
        ids = shared_prefix.ids if isinstance(shared_prefix, PrefixCache) else shared_prefix
        return Part(examples, ids, vectors, self.learned(ids, vectors))

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
