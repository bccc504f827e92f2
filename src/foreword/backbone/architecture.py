"""The seam between the frozen model and how its kind reads a prompt. Knows ids and tensors; knows no kind of model."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import DynamicCache

from foreword.backbone.batch import Part


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

    def checkpoint_activations(self) -> bool:
        """Keep one layer's activations at a time inside the graph from now on, and compute the others again on the way
        back (activation checkpointing). False where that is so already, or cannot be.
        """
        ...

    def generate(self, rows: Sequence[Tensor], cache: DynamicCache | None, **options: Any) -> Tensor:
        """New ids [B, t] for rows of embeddings [T, D], through transformers' `generate` with its `options`."""
        ...
