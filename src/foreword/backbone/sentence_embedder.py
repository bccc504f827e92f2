"""Texts as vectors, by a frozen model in a folder of sentence-transformers. Knows no prompts, no HTTP."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreword.errors import ForewordError, UsageError

EMBEDDING_BATCH = 32
"""Texts that go through the model together."""


class SentenceEmbedder:
    """A frozen embedding model. `model` is a `SentenceTransformer`; `name` is what it is called. Safe for threads."""

    def __init__(self, model: Any, name: str) -> None:
        self.name = name
        self.dimension: int = model.get_embedding_dimension()
        """D of every vector."""
        self._model = model
        self._tokenizer = copy.deepcopy(model.tokenizer)  # how it cuts and pads is its state, which the model sets too
        self._longest: int | None = model.max_seq_length
        self._counting, self._encoding = threading.Lock(), threading.Lock()

    @classmethod
    def load(cls, place: str) -> "SentenceEmbedder":
        """The model in a folder of sentence-transformers. Runs nothing of the folder's, and fetches nothing.

        Raises UsageError for a folder that is none, ForewordError for one that cannot be loaded.
        """
        folder = Path(place).expanduser()
        if not (folder / "modules.json").is_file():
            raise UsageError(f"{place!r} is no folder of a sentence-transformers model: it has no 'modules.json'")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ForewordError("embeddings need sentence-transformers: pip install 'foreword[embeddings]'") from None
        try:
            model = SentenceTransformer(
                str(folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except Exception as error:  # its own, transformers' and those of broken files
            raise ForewordError(f"the embedding model {place!r} cannot be loaded: {error!s:.300}") from error
        return cls(model.eval(), folder.resolve().name)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """The tokens of every text. Raises UsageError for a text that is longer than the model reads."""
        with self._counting:
            ids = self._tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        counts = [len(row) for row in ids]
        for i, count in enumerate(counts):
            if self._longest is not None and count > self._longest:
                raise UsageError(f"text {i} has {count:,} tokens; {self.name!r} reads {self._longest:,}: cut it")
        return counts

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors [n, D], fp32. Raises UsageError for a text that is too long, ForewordError for non-finite vectors."""
        self.count_tokens(texts)
        return self.encode(texts)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """As `embed` does, for texts that `count_tokens` has let through; the model would truncate longer ones."""
        with self._encoding:
            encoded = self._model.encode(list(texts), batch_size=EMBEDDING_BATCH, show_progress_bar=False)
        vectors: np.ndarray = encoded.astype(np.float32)
        if not np.isfinite(vectors).all():
            raise ForewordError(f"{self.name!r} gives non-finite vectors")
        return vectors
