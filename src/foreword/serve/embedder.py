"""Texts as vectors, by a sentence-transformers model in one thread of its own. Knows no HTTP and no prompts.

What waits shares a batch, in turn, so that one long list does not hold up a single question.
"""

import asyncio
import contextlib
import copy
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from foreword.errors import ForewordError, UsageError
from foreword.serve.engines.seam import QueueFullError

BATCH = 32
"""Texts that go through the model together."""
MAX_TEXTS = 2_048
"""Of one request."""
MAX_WAITING = 8_192
"""Texts of all requests that wait."""


class _Job:
    """Texts of one request, and what has been made of them."""

    def __init__(self, texts: Sequence[str], future: "asyncio.Future[np.ndarray]") -> None:
        self.texts, self.future = texts, future
        self.loop = asyncio.get_running_loop()
        self.found: list[np.ndarray] = []

    def settle(self, error: Exception | None) -> None:
        """Tell who waits; called from the embedder's thread."""

        def tell() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(np.stack(self.found))

        with contextlib.suppress(RuntimeError):  # that loop has ended: nobody listens
            self.loop.call_soon_threadsafe(tell)


class Embedder:
    """A frozen embedding model. `model` is a `SentenceTransformer`; `name` is what requests call it."""

    def __init__(self, model: Any, name: str) -> None:
        self.name = name
        self.dimension: int = model.get_embedding_dimension()
        """D of every vector."""
        self._model = model
        self._tokenizer = copy.deepcopy(model.tokenizer)  # how it cuts and pads is its state, which the model sets too
        self._longest: int | None = model.max_seq_length
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="foreword-embed-prepare")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foreword-embed")

    @classmethod
    def load(cls, place: str) -> "Embedder":
        """From a folder of sentence-transformers. Runs nothing of the folder's, and fetches nothing."""
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

    async def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """[n, D] fp32, and the tokens of all texts. Raises UsageError for what is too long, or QueueFullError."""
        if len(texts) > MAX_TEXTS:
            raise UsageError(f"{len(texts):,} texts are more than the {MAX_TEXTS:,} of one request; send them in parts")
        loop = asyncio.get_running_loop()
        lengths = await loop.run_in_executor(self._tokenizing, self._lengths, texts)
        for i, length in enumerate(lengths):
            if self._longest is not None and length > self._longest:
                raise UsageError(f"text {i} has {length:,} tokens; {self.name!r} reads {self._longest:,}: cut it")
        job = _Job(texts, loop.create_future())
        with self._lock:
            waiting = sum(len(one.texts) - len(one.found) for one in self._jobs)
            if waiting + len(texts) > MAX_WAITING:
                raise QueueFullError(waiting, 1.0)
            self._jobs.append(job)
        self._thread.submit(self._run)
        return await job.future, sum(lengths)

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        found = self._tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)
        return [len(ids) for ids in found["input_ids"]]

    def _run(self) -> None:
        """One batch after another until nothing waits; every request that comes calls for it once."""
        while True:
            with self._lock:
                self._jobs = deque(job for job in self._jobs if not job.future.done())
                parts = self._share()
            if not parts:
                return
            texts = [text for job, count in parts for text in job.texts[len(job.found) : len(job.found) + count]]
            error: Exception | None = None
            try:
                vectors = self._model.encode(texts, batch_size=BATCH, show_progress_bar=False).astype(np.float32)
                if not np.isfinite(vectors).all():
                    raise ForewordError(f"{self.name!r} gives vectors that are no numbers")
            except Exception as caught:
                error, vectors = caught, np.zeros((len(texts), 0), np.float32)
            start = 0
            for job, count in parts:
                job.found += list(vectors[start : start + count])
                start += count
                if error is not None or len(job.found) == len(job.texts):
                    with self._lock:
                        self._jobs.remove(job)
                    job.settle(error)

    def _share(self) -> list[tuple[_Job, int]]:
        """Who has how many texts in the next batch: as many for each as there is room for, the oldest first."""
        jobs, left, parts = list(self._jobs)[:BATCH], BATCH, list[tuple[_Job, int]]()
        for i, job in enumerate(jobs):
            count = min(len(job.texts) - len(job.found), max(1, left // (len(jobs) - i)))
            parts.append((job, count))
            left -= count
        return parts
