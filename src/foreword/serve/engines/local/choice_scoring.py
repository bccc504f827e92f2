"""Choices scored for many requests at once, whatever their prompts. Knows the backbone; knows no event loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from foreword.backbone import Answer, Backbone, Example, Part, PrefixCache
from foreword.errors import clear_frames
from foreword.serve.engines.local.kv_cache import PrefixCaches, check_finite
from foreword.serve.engines.prepare import Prepared, choose_answer
from foreword.serve.engines.queueing import FairQueue
from foreword.serve.engines.seam import ClosedError, DeadlineError, ModelError, Request

Answers = tuple[tuple[int, ...], ...]


@dataclass
class ChoiceJob:
    """A request for one of the prompt's choices."""

    prepared: Prepared
    answers: tuple[tuple[int, ...], ...]
    """Token ids of every choice."""
    done: Callable[[Answer | Exception], None]
    cancelled: bool = False
    request: Request = field(init=False)

    def __post_init__(self) -> None:
        self.request = self.prepared.request

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, the shared prefix not counted."""
        return (
            len(self.prepared.ids)
            - self.prepared.shared_prefix_length
            + sum(len(answer) - 1 for answer in self.answers)
        )

    def fail(self, error: Exception) -> None:
        """End it by what went wrong, and free what the error's frames hold."""
        clear_frames(error)
        self.done(error)


@dataclass
class _ChunkedJob:
    """A job of more tokens than a step takes, which is scored in several steps."""

    job: ChoiceJob
    parts: Iterator[Part | None]
    log_likelihoods: list[float] = field(default_factory=list)
    """Nats of the choices that have been scored."""


class ChoiceScorer:
    """Scores what waits, at most `chunk` tokens between two steps, so that rows that decode go on.

    A job of more than that is scored in chunks, where the backbone packs, in turn with those that are smaller; one
    after another, so that only one takes memory.
    """

    def __init__(self, backbone: Backbone, prefix_caches: PrefixCaches, chunk: int) -> None:
        self._backbone, self._prefix_caches, self._chunk = backbone, prefix_caches, chunk
        self._now: _ChunkedJob | None = None
        self._waited = False
        """Whether it waited for smaller jobs in the last step."""

    @property
    def idle(self) -> bool:
        """Whether no job is being scored in chunks."""
        return self._now is None

    def run(self, jobs: FairQueue[ChoiceJob]) -> None:
        """Score one batch of those whose turn it is, or a chunk of a large one."""
        if self._now is None and len(jobs) and self._too_large(jobs.first()):
            self._begin(jobs.pop())
        others = len(jobs) and not self._too_large(jobs.first())
        if self._now is not None and (self._waited or not others):
            self._waited = False
            self._go_on(self._now)
        elif others:
            self._waited = True
            self._batch(jobs)

    def stop(self, error: Exception) -> None:
        """Give up a job that is being scored in chunks."""
        if self._now is not None:
            large, self._now = self._now, None
            large.job.fail(error)

    def _too_large(self, job: ChoiceJob) -> bool:
        return self._backbone.packs and job.tokens > self._chunk

    def _begin(self, job: ChoiceJob) -> None:
        try:
            cache = self._prefix_cache(job.prepared)
            parts = _chunks(self._backbone, job.prepared, job.answers, cache, self._chunk)
            self._now = _ChunkedJob(job, parts)
        except Exception as error:
            job.fail(error)

    def _go_on(self, large: _ChunkedJob) -> None:
        job = large.job
        try:
            if job.cancelled:
                raise ClosedError("nobody waits for it any more")
            if job.request.deadline is not None and job.request.deadline <= time.monotonic():
                raise DeadlineError("the deadline has passed before the choices were scored")
            if (part := next(large.parts)) is None:
                return
            large.log_likelihoods += self._log_likelihoods([part])[0]
        except Exception as error:
            self.stop(error)
            return
        if len(large.log_likelihoods) == len(job.answers):
            self._now = None
            self._settle(job, large.log_likelihoods)

    def _batch(self, jobs: FairQueue[ChoiceJob]) -> None:
        batch: list[ChoiceJob] = []
        parts: list[Part] = []
        tokens = 0
        while (
            len(jobs)
            and not self._too_large(jobs.first())
            and (not batch or tokens + jobs.first().tokens <= self._chunk)
        ):
            job = jobs.pop()
            try:
                parts.append(self._part(job))
                batch.append(job)
                tokens += job.tokens
            except Exception as error:  # one prompt's fault, and no other job's
                job.fail(error)
        if not batch:
            return
        try:
            log_likelihoods = self._log_likelihoods(parts)
        except Exception as error:
            for job in batch:
                job.fail(error)
            return
        for job, values in zip(batch, log_likelihoods, strict=True):
            self._settle(job, values)

    def _settle(self, job: ChoiceJob, values: Sequence[float]) -> None:
        if all(map(math.isfinite, values)):
            job.done(choose_answer(job.prepared, job.answers, values))
        else:
            job.fail(ModelError(f"prompt {job.request.key!r}: the model gives non-finite logits"))

    def _part(self, job: ChoiceJob) -> Part:
        prepared = job.prepared
        example = Example(prepared.ids[prepared.shared_prefix_length :], job.answers)
        return self._backbone.part([example], self._prefix_cache(prepared), prepared.vectors)

    def _log_likelihoods(self, parts: Sequence[Part]) -> list[list[float]]:
        """Nats per choice, of every part."""
        flat = self._backbone.log_probs_mixed(parts).double().cpu().numpy()
        counts = [[len(answer) for example in part.examples for answer in example.answers] for part in parts]
        sums = iter(np.add.reduceat(flat, np.cumsum([0, *chain(*counts)])[:-1]).tolist())
        return [list(islice(sums, len(count))) for count in counts]

    def _prefix_cache(self, prepared: Prepared) -> PrefixCache:
        caches, key = self._prefix_caches, prepared.prefix_cache_key
        cache = caches.get(key)
        if cache is None:
            caches.misses += 1
            cache = self._backbone.prefill(prepared.ids[: prepared.shared_prefix_length], prepared.vectors)
            check_finite(prepared.request.prompt, cache.cache)
            caches.put(key, cache)
        else:
            caches.hits += 1
        return cache


def _chunks(
    backbone: Backbone, prepared: Prepared, answers: Answers, prefix_cache: PrefixCache, chunk: int
) -> Iterator[Part | None]:
    """What is to be scored of one request that is too large for a step: some choices after others, in parts.

    A part has `chunk` tokens at most; None comes behind every chunk of the question that has been prefilled.

    The question is read once: all but its last token, with which every part begins, becomes a longer shared prefix. For
    backbones that pack. One choice of more than `chunk` tokens is a part of its own.
    """
    ids, vectors, last = prepared.ids, prepared.vectors, len(prepared.ids) - 1
    cache = backbone.embedder.new_cache(prefix_cache.cache)
    for start in range(prepared.shared_prefix_length, last, chunk):
        texts = int((ids[:start] >= 0).sum())
        embedded = backbone.embedder.embed_row(ids[start : min(start + chunk, last)], vectors, texts)
        backbone.architecture.fill(cache, embedded[None])
        yield None
    whole = PrefixCache(ids[:last], [(layer.keys[0], layer.values[0]) for layer in cache.layers])
    for some in _groups(answers, chunk):
        yield backbone.part([Example(ids[last:], some)], whole, vectors)


def _groups(answers: Answers, chunk: int) -> Iterator[Answers]:
    group: Answers = ()
    tokens = 1
    for answer in answers:
        if group and tokens + len(answer) - 1 > chunk:
            yield group
            group, tokens = (), 1
        group, tokens = (*group, answer), tokens + len(answer) - 1
    yield group
