"""The engine on this machine: requests from event loops to the model's thread, tokens back. Knows no HTTP."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from foreword.backbone import Answer, Backbone, end_tokens
from foreword.errors import UsageError
from foreword.prompts import Prompt
from foreword.serve.engines.local.choice_scoring import ChoiceJob, ChoiceScorer
from foreword.serve.engines.local.generation import Generation
from foreword.serve.engines.local.runner import choose_runner
from foreword.serve.engines.local.sampler import MaskMaker, grammar_masks
from foreword.serve.engines.local.scheduler import Scheduler
from foreword.serve.engines.local.text_scoring import TextJob, TextScorer
from foreword.serve.engines.prepare import Preparer, check_prompt
from foreword.serve.engines.queueing import QueueLimit
from foreword.serve.engines.seam import ClosedError, Finished, Request, Stats, Token

T = TypeVar("T")
GB = 1024**3


class LocalEngine:
    """An `Engine` on a backbone in this process.

    `max_rows` are decoded at once, `max_waiting` more are accepted, shared by prompts as `QueueLimit` says. `kv_bytes`
    bound the keys and values of what is running, `prefix_cache_bytes` those of shared prefixes that are kept. At most
    `chunk` prompt tokens are prefilled between two tokens of a row that is decoded. `masks` constrain answers to
    schemas; they are llguidance's, unless others are given.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        max_rows: int = 16,
        max_waiting: int = 256,
        kv_bytes: int = 2 * GB,
        prefix_cache_bytes: int = GB // 2,
        chunk: int = 256,
        masks: MaskMaker | None = None,
    ) -> None:
        _ = backbone.fingerprint  # which the first request would otherwise wait for
        self.backbone = backbone
        self._runner = choose_runner(backbone, kv_bytes, prefix_cache_bytes, chunk)
        self._post = _Post()
        choice_scorer = ChoiceScorer(backbone, self._runner.prefix_caches, chunk)
        text_scorer = TextScorer(backbone, chunk)
        self._scheduler = Scheduler(self._runner, choice_scorer, text_scorer, max_rows, self._post.flush)
        self._preparer, self._ends = Preparer(backbone), end_tokens(backbone)
        self._masks = masks or grammar_masks(backbone)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="foreword-prepare")
        self._lock = threading.Lock()
        self._waiting = QueueLimit(max_waiting)
        self._entering_now = 0
        self._closed = self._ending = False
        self._thread = threading.Thread(target=self._scheduler.run, name="foreword-engine", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int:
        """As `Engine` has it."""
        return self.backbone.context

    def check(self, prompt: Prompt) -> None:
        """As `Engine` has it."""
        check_prompt(self.backbone, prompt)

    async def generate(self, request: Request) -> AsyncIterator[Token | Finished]:
        """As `Engine` has it."""
        with self._entering(request.key) as entered:
            schema = request.schema
            prepared = await self._prepare(lambda: self._preparer.generation(request))
            mask = await self._prepare(lambda: self._masks(schema)) if schema is not None else None
            sink = _Sink(self._post, asyncio.get_running_loop(), lambda: self._leave(request.key))
            row = Generation(prepared, sink, self.backbone.tokenizer, self._ends, mask)
            if not self._runner.fits(row):
                raise UsageError(
                    f"a prompt of {len(prepared.ids):,} tokens and {row.limit:,} to write take more memory than the "
                    f"engine may use for them ({self._runner.total / GB:.1f} GB): ask for fewer tokens"
                )
            entered()
            self._scheduler.submit(row)
        return _Stream(row, sink.items, self._scheduler.wake)

    async def classify(self, request: Request) -> Answer:
        """As `Engine` has it."""
        with self._entering(request.key) as entered:
            prepared, answers = await self._prepare(lambda: self._preparer.choices(request))
            promise = _Promise[Answer](self._post, lambda: self._leave(request.key))
            job = ChoiceJob(prepared, answers, promise.keep)
            entered()
            self._scheduler.submit_choices(job)
        try:
            return await promise.future
        finally:
            job.cancelled = True

    async def score_text(self, request: Request) -> Sequence[Token]:
        """As `TextScoringEngine` has it."""
        if self.backbone.architecture.answers_apart:
            raise UsageError(
                f"{self.backbone.name!r} reads a text with an encoder, which does not tell how likely it is"
            )
        with self._entering(request.key) as entered:
            prepared = await self._prepare(lambda: self._preparer.generation(request))
            promise = _Promise[Sequence[Token]](self._post, lambda: self._leave(request.key))
            job = TextJob(prepared, promise.keep)
            entered()
            self._scheduler.submit_text(job)
        try:
            return await promise.future
        finally:
            job.cancelled = True

    def stats(self) -> Stats:
        """As `Engine` has it."""
        counters, caches = self._scheduler.counters, self._runner.prefix_caches
        return Stats(
            running=len(self._scheduler.running),
            waiting=self._waiting.taken,
            kv_used=self._runner.used,
            kv_total=self._runner.total,
            prefix_caches=len(caches),
            prefix_cache_bytes=caches.used,
            prefix_cache_total=caches.total,
            prefix_cache_hits=caches.hits,
            prefix_cache_misses=caches.misses,
            **vars(counters),
        )

    async def close(self, grace: float) -> None:
        """As `Engine` has it."""
        self._closed, until = True, time.monotonic() + grace
        while self._entering_now and time.monotonic() < until:  # accepted, and not in the loop's hands yet
            await asyncio.sleep(0.002)
        self._ending = True
        self._scheduler.close(until)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @contextlib.contextmanager
    def _entering(self, key: str) -> Any:
        """Count a request as waiting, and no more where it fails before it has `entered`."""
        with self._lock:
            if self._closed or not self._thread.is_alive():
                raise ClosedError()
            self._waiting.check(key, self._scheduler.pace.seconds())
            self._waiting.take(key)
            self._entering_now += 1
        inside = False

        def entered() -> None:
            nonlocal inside
            if self._ending:
                raise ClosedError()
            inside = True

        try:
            yield entered
        finally:
            with self._lock:
                self._entering_now -= 1
            if not inside:
                self._leave(key)

    def _leave(self, key: str) -> None:
        with self._lock:
            self._waiting.give_back(key)


class _Post:
    """What is to be given to event loops, held until a step is over: each is woken once."""

    def __init__(self) -> None:
        self._held: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
        self._held.setdefault(loop, []).append(what)

    def flush(self) -> None:
        held, self._held = self._held, {}
        for loop, calls in held.items():
            with contextlib.suppress(RuntimeError):  # that loop has ended: nobody listens
                loop.call_soon_threadsafe(_all, calls)


def _all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


class _Promise(Generic[T]):
    """What a caller waits for; the model's thread keeps it once, with what it has or with what went wrong."""

    def __init__(self, post: _Post, leave: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()
        self._post, self._leave = post, leave

    def keep(self, result: T | Exception) -> None:
        self._leave()
        self._post.add(self._loop, lambda: self._settle(result))

    def _settle(self, result: T | Exception) -> None:
        if self.future.done():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class _Sink:
    """Takes a row's items in the model's thread. Holds no stream: one that is forgotten must be found out."""

    def __init__(self, post: _Post, loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
        self.items: asyncio.Queue[Token | Finished] = asyncio.Queue()
        self._post, self._loop, self._leave = post, loop, leave
        self._begun = False

    def begun(self) -> None:
        """The row does not wait any more."""
        if not self._begun:
            self._begun = True
            self._leave()

    def give(self, item: Token | Finished) -> None:
        if isinstance(item, Finished):
            self.begun()
        self._post.add(self._loop, lambda: self.items.put_nowait(item))


class _Stream:
    """The items of one row, in order. Closing it, or forgetting it, frees the row."""

    def __init__(self, row: Generation, items: "asyncio.Queue[Token | Finished]", wake: Callable[[], None]) -> None:
        self._row, self._items, self._wake = row, items, wake
        self._ended = False

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Token | Finished:
        if self._ended:
            raise StopAsyncIteration
        try:
            item = await self._items.get()
        except asyncio.CancelledError:
            self._cancel()
            raise
        self._ended = isinstance(item, Finished)
        return item

    async def aclose(self) -> None:
        """Free the row."""
        self._cancel()

    def __del__(self) -> None:
        self._cancel()

    def _cancel(self) -> None:
        if not self._ended:
            self._ended = True
            self._row.cancelled = True
            self._wake()
