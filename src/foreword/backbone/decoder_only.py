"""Models that read a prompt and go on behind it. Knows ids and tensors, no prompts' text.

Rows are packed in one sequence behind their shared prefixes; families that cannot be packed are padded behind a
cached one.
"""

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from foreword.backbone import attention, flex, probe
from foreword.backbone.batch import Packed, Part, pack
from foreword.backbone.checkpointing import Layers
from foreword.backbone.input_embedder import InputEmbedder
from foreword.backbone.padded import padded_log_probs
from foreword.backbone.vectors import NO_VECTORS, Vectors
from foreword.errors import ForewordError, ForewordWarning


def cache_shape(config: Any) -> tuple[int, int, int]:
    """L, H and head_dim, by a text model's config."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, size


class DecoderOnly:
    """An `Architecture`: the answer continues the prompt's own sequence."""

    answers_apart = False

    def __init__(self, embedder: InputEmbedder) -> None:
        self.embedder, self.model = embedder, embedder.model
        self.layers = Layers(self.model, ())
        self.checkpoints = False
        """Whether activations are checkpointed."""
        self.packs = self._supports_packing()

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """L, H and head_dim, by the model's config."""
        return cache_shape(self.model.config.get_text_config())

    def span(self, read: int, write: int, prefix: int = 0) -> int:  # noqa: ARG002 - the prefix is read like the rest
        """Prompt and answer stand in one sequence."""
        return read + write

    def fill(self, cache: DynamicCache, embedded: Tensor) -> None:
        """Read embeddings [1, T, D] into the cache."""
        self.model(inputs_embeds=embedded, use_cache=True, logits_to_keep=1, **{self.embedder.takes_cache: cache})

    def generate(self, rows: Sequence[Tensor], cache: DynamicCache | None, **options: Any) -> Tensor:
        """New ids [B, t] behind rows of embeddings [T, D].

        Rows are padded on the left, where transformers expects it; positions follow the mask.
        """
        embedded = pad_sequence(list(rows), batch_first=True, padding_side="left")
        ones = [torch.ones(len(row), dtype=torch.int64) for row in rows]
        mask = pad_sequence(ones, batch_first=True, padding_side="left")
        if cache is not None:
            P = cache.get_seq_length()
            mask = torch.cat([torch.ones(len(rows), P, dtype=torch.int64), mask], 1)
            # generate takes embeddings for the whole sequence, and cuts off what is in the cache.
            embedded = torch.cat([embedded.new_zeros(len(rows), P, embedded.shape[2]), embedded], 1)
            options[self.embedder.takes_cache] = cache
        new: Tensor = self.model.generate(inputs_embeds=embedded, attention_mask=mask.to(embedded.device), **options)
        return new

    def checkpoint_activations(self) -> bool:
        """From now on, where the layers could be told apart; whether that changes anything."""
        able = self.layers.known and not self.checkpoints
        self.checkpoints = self.checkpoints or able
        return able

    def log_probs(self, parts: Sequence[Part]) -> Tensor:
        """[A] in order of part, example, answer, token; fp32 or better."""
        if not self.packs:
            return torch.cat([padded_log_probs(self.embedder, part) for part in parts])
        packed = pack(parts, self.embedder.device)
        packed.layout.fused = packed.layout.slots.shape[1] >= flex.LONG and self.fuses
        return self._packed_log_probs(packed, _all_vectors(parts))

    @cached_property
    def fuses(self) -> bool:
        """Whether one kernel reads long rows: asked by numbers when the first ones come, for it is compiled then.

        Where it cannot be had, or gives other numbers, a warning says why, and rows are padded as on a CPU.
        """
        if not flex.possible(self.embedder.device, self.cache_shape[2]) or self.embedder.context < probe.LONGEST:
            return False
        try:
            plain, plain_gradient = self._long_probe(fused=False)
            learned, gradient = self._long_probe(fused=True)
            read, _ = self._long_probe(fused=True, learn=False)
            same = all(probe.alike(fused, plain.float(), self.embedder.dtype) for fused in (learned, read))
            same = same and probe.gradients_alike(gradient, plain_gradient, self.embedder.dtype)
            reason = "" if same else "its numbers are not those of plain attention"
        except probe.NO_ANSWER:  # it is asked again, of fewer rows perhaps
            raise
        except Exception as error:  # compilers fail in ways of their own
            reason = next(iter(str(error).splitlines()), type(error).__name__)
        if reason:
            text = f"FlexAttention is not used ({reason}); long rows are padded, as exact and with more memory"
            warnings.warn(text, ForewordWarning, stacklevel=2)
        return not reason

    def _long_probe(self, *, fused: bool, learn: bool = True) -> tuple[Tensor, Tensor]:
        """Log-probabilities of long rows, and the gradient of the virtual tokens before some of them."""
        embedding = self.model.get_input_embeddings().weight[: probe.VIRTUAL].detach()
        with torch.inference_mode(False), torch.set_grad_enabled(learn):
            virtual = embedding.float().clone().requires_grad_(learn)
            vectors = Vectors(embeddings=virtual)
            learned, hard = probe.LONG
            cache = self.embedder.keys_and_values(hard.shared_prefix, NO_VECTORS, self.fill)
            packed = pack([replace(learned, vectors=vectors), replace(hard, cache=cache)], self.embedder.device)
            packed.layout.fused = fused
            log_probs = self._packed_log_probs(packed, vectors)
            gradient = torch.autograd.grad(log_probs.mean(), [virtual])[0] if learn else torch.zeros_like(virtual)
        return log_probs.detach(), gradient

    def _packed_log_probs(self, packed: Packed, vectors: Vectors) -> Tensor:
        """Log-probabilities [A] of the answers' tokens."""
        logits = self._logits(packed, vectors)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return torch.log_softmax(logits, -1, dtype=dtype)[packed.which, packed.target]

    def _logits(self, packed: Packed, vectors: Vectors) -> Tensor:
        """Logits [M, V] at the places that are read: the head runs nowhere else."""
        unused = torch.zeros(1, 1, 1, 1, device=self.embedder.device)  # four axes: the model passes it on as it is
        embedded = self.embedder.embed(packed.ids, vectors, packed.offsets)[None]
        checkpoints = self.checkpoints and torch.is_grad_enabled()
        with self.layers.checkpointed(packed.layout) if checkpoints else contextlib.nullcontext():
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
        Raises ForewordError where even padded rows behind a cached shared prefix do not have them.
        """
        config = self.model.config.get_text_config()
        chunk = getattr(config, "attention_chunk_size", None)  # seen by no probe that is shorter than a chunk
        if self.model._can_set_attn_implementation() and (chunk is None or chunk >= self.embedder.context):
            before = self.model.config._attn_implementation
            plain = probe.plain_log_probs(self._plain_logits)
            self.model.set_attn_implementation(attention.NAME)
            if self._packs_like(plain):
                return True
            self.model.set_attn_implementation(before)
        plain = probe.plain_log_probs(self._plain_logits)
        if not probe.agrees(lambda: padded_log_probs(self.embedder, probe.PART), plain, self.embedder.dtype):
            raise ForewordError(
                f"{self.embedder.name!r} is of the family {config.model_type!r}, which reads a row differently behind "
                "a cached shared prefix; Foreword cannot run it: choose a decoder-only model with attention in every "
                "layer"
            )
        return False

    def _windows_told(self, windows: Sequence[int | None]) -> bool:
        """Whether every sliding layer has said how far it sees: no probe is long enough to show it."""
        config = self.model.config.get_text_config()
        if types := getattr(config, "layer_types", None):
            slides = [kind == "sliding_attention" for kind in types]
        else:
            window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
            slides = [window is not None and window < self.embedder.context] * len(windows)
        silent = any(slide and window is None for slide, window in zip(slides, windows, strict=False))
        return len(slides) == len(windows) and not silent

    def _plain_logits(self, question: list[int], answer: tuple[int, ...]) -> Tensor:
        """[n, V] that predict the answer's tokens, as transformers computes them for one row."""
        ids = torch.tensor([*question, *answer], device=self.embedder.device)
        logits: Tensor = self.model(input_ids=ids[None], use_cache=False).logits[0, -len(answer) - 1 : -1]
        return logits

    def _packs_like(self, plain: Tensor) -> bool:
        """Whether packed rows have the `plain` log-probabilities, and every layer takes its attention from us."""
        windows: list[int | None] = []

        def compute() -> Tensor:
            packed = pack([probe.PART], self.embedder.device)
            log_probs = self._packed_log_probs(packed, NO_VECTORS)
            windows[:] = packed.layout.windows
            return log_probs

        same = probe.agrees(compute, plain, self.embedder.dtype)
        layers = self.model.config.get_text_config().num_hidden_layers
        if not same or len(windows) != layers or not self._windows_told(windows):
            return False
        self.layers = Layers(self.model, windows)
        return True


class Layerless:
    """An `Architecture` whose layers are elsewhere: it tells how prompts are laid out, and reads none of them."""

    packs = False
    answers_apart = False

    def __init__(self, embedder: InputEmbedder) -> None:
        self._config = embedder.model.config.get_text_config()

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """L, H and head_dim of the model that this is a part of."""
        return cache_shape(self._config)

    def span(self, read: int, write: int, prefix: int = 0) -> int:  # noqa: ARG002 - the prefix is read like the rest
        """Prompt and answer stand in one sequence."""
        return read + write

    def checkpoint_activations(self) -> bool:
        """There are none."""
        return False

    def fill(self, cache: DynamicCache, embedded: Tensor) -> None:
        """Never: as the two below."""
        self._nothing(cache, embedded)

    def log_probs(self, parts: Sequence[Part]) -> Tensor:
        """Never."""
        self._nothing(parts)

    def generate(self, rows: Sequence[Tensor], cache: DynamicCache | None, **options: Any) -> Tensor:
        """Never."""
        self._nothing(rows, cache, options)

    def _nothing(self, *_: Any) -> NoReturn:
        raise NotImplementedError("this backbone was loaded without its layers")


def _all_vectors(parts: Sequence[Part]) -> Vectors:
    """The virtual tokens and offsets of all parts, one part's behind another's, as `pack` counts them."""
    embeddings = [part.vectors.embeddings for part in parts if part.vectors.embeddings is not None]
    offsets = [part.vectors.offsets for part in parts if part.vectors.offsets is not None]
    return Vectors(
        embeddings=torch.cat(embeddings) if embeddings else None, offsets=torch.cat(offsets) if offsets else None
    )
