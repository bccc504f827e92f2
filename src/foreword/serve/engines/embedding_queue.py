"""Texts of many requests on their way through one embedding model, in a thread of its own. Knows no HTTP, no prompts.

What waits shares a batch, in turn, so that one long list does not hold up a single question.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from foreword.backbone import EMBEDDING_BATCH, SentenceEmbedder
from foreword.errors import UsageError
from foreword.serve.engines.seam import QueueFullError

MAX_TEXTS = 2_048
"""Texts of one request."""
MAX_WAITING = 8_192
"""Texts of all requests that wait."""


class _Job:
    """Texts of one request, and the vectors that have been made of them."""

    def __init__(self, texts: Sequence[str], future: "asyncio.Future[np.ndarray]") -> None:
        self.texts, self.future = texts, future
        self.loop = asyncio.get_running_loop()
        self.vectors: list[np.ndarray] = []

    @property
    def left(self) -> int:
        """Texts that have no vector yet."""
        return len(self.texts) - len(self.vectors)

    def next(self, count: int) -> Sequence[str]:
        """The next texts to embed."""
        return self.texts[len(self.vectors) : len(self.vectors) + count]

    def settle(self, error: Exception | None) -> None:
        """Tell who waits; called from the embedder's thread."""

        def tell() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(np.stack(self.vectors))

        with contextlib.suppress(RuntimeError):  # that loop has ended: nobody listens
            self.loop.call_soon_threadsafe(tell)


class EmbeddingQueue:
    """An embedding model for many requests at once."""

    def __init__(self, embedder: SentenceEmbedder) -> None:
        self.name, self.dimension = embedder.name, embedder.dimension
        self._embedder = embedder
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._counting = ThreadPoolExecutor(1, thread_name_prefix="foreword-embed-prepare")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foreword-embed")

    async def embed(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """Vectors [n, D], fp32, and the tokens of all texts.

        Raises UsageError for what is too long, QueueFullError where too much waits, ForewordError for non-finite
        vectors.
        """
        if len(texts) > MAX_TEXTS:
            raise UsageError(f"{len(texts):,} texts are more than the {MAX_TEXTS:,} of one request; send them in parts")
        loop = asyncio.get_running_loop()
        counts = await loop.run_in_executor(self._counting, self._embedder.count_tokens, texts)
        job = _Job(texts, loop.create_future())
        with self._lock:
            waiting = sum(one.left for one in self._jobs)
            if waiting + len(texts) > MAX_WAITING:
                raise QueueFullError(waiting, 1.0)
            self._jobs.append(job)
        self._thread.submit(self._run)
        return await job.future, sum(counts)

    def _run(self) -> None:
        """One batch after another until nothing waits; every request that comes calls for it once."""
        while True:
            with self._lock:
                self._jobs = deque(job for job in self._jobs if not job.future.done())
                parts = self._share()
            if not parts:
                return
            texts = [text for job, count in parts for text in job.next(count)]
            error: Exception | None = None
            try:
                vectors = self._embedder.encode(texts)
            except Exception as caught:
                error, vectors = caught, np.zeros((len(texts), 0), np.float32)
            start = 0
            for job, count in parts:
                job.vectors += list(vectors[start : start + count])
                start += count
                if error is not None or not job.left:
                    with self._lock:
                        self._jobs.remove(job)
                    job.settle(error)

    def _share(self) -> list[tuple[_Job, int]]:
        """Who has how many texts in the next batch: as many for each as there is room for, the oldest first."""
        jobs, room, parts = list(self._jobs)[:EMBEDDING_BATCH], EMBEDDING_BATCH, list[tuple[_Job, int]]()
        for i, job in enumerate(jobs):
            count = min(job.left, max(1, room // (len(jobs) - i)))
            parts.append((job, count))
            room -= count
        return parts
