"""A decoder-only model whose layers are elsewhere: it tells how prompts are laid out, and reads none of them."""

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor
from transformers import DynamicCache

from foreword.backbone.batch import Part
from foreword.backbone.decoder_only import cache_shape
from foreword.backbone.input_embedder import InputEmbedder


class Layerless:
    """An `Architecture` of which only the shapes are here."""

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
