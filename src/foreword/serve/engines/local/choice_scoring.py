"""Choices scored for many requests at once, whatever their prompts. Knows the backbone; knows no event loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from foreword.backbone.answer import Answer
from foreword.backbone.backbone import Backbone
from foreword.backbone.batch import Example, Part, PrefixCache
from foreword.errors import let_go
from foreword.serve.engines.local.kv_cache import Fronts, check
from foreword.serve.engines.prepare import Prepared, choose_answer
from foreword.serve.engines.queueing import FairQueue
from foreword.serve.engines.seam import ClosedError, DeadlineError, ModelError, Request

Answers = tuple[tuple[int, ...], ...]


@dataclass
class Job:
    """A request for a choice."""

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
        """That go through the model, the front not counted."""
        return len(self.prepared.ids) - self.prepared.front + sum(len(answer) - 1 for answer in self.answers)

    def fail(self, error: Exception) -> None:
        let_go(error)
        self.done(error)


@dataclass
class _Large:
    """A job that takes several steps."""

    job: Job
    parts: Iterator[Part | None]
    values: list[float] = field(default_factory=list)
    """Nats of the choices that are scored."""


class Classifier:
    """Scores what waits, at most `chunk` tokens between two steps, so that rows that write go on.

    A job of more than that is scored in pieces, where the backbone packs, in turn with those that are smaller; one
    after another, so that only one takes memory.
    """

    def __init__(self, backbone: Backbone, fronts: Fronts, chunk: int) -> None:
        self._backbone, self._fronts, self._chunk = backbone, fronts, chunk
        self._now: _Large | None = None
        self._passed = False
        """Whether smaller jobs had the last turn."""

    @property
    def idle(self) -> bool:
        return self._now is None

    def run(self, jobs: FairQueue[Job]) -> None:
        """One batch of those whose turn it is, or a piece of a large one."""
        if self._now is None and len(jobs) and self._large(jobs.first()):
            self._begin(jobs.pop())
        others = len(jobs) and not self._large(jobs.first())
        if self._now is not None and (self._passed or not others):
            self._passed = False
            self._go_on(self._now)
        elif others:
            self._passed = True
            self._batch(jobs)

    def stop(self, error: Exception) -> None:
        """Give up a job that is scored in pieces."""
        if self._now is not None:
            large, self._now = self._now, None
            large.job.fail(error)

    def _large(self, job: Job) -> bool:
        return self._backbone.packs and job.tokens > self._chunk

    def _begin(self, job: Job) -> None:
        try:
            front = self._front(job.prepared)
            self._now = _Large(job, pieces(self._backbone, job.prepared, job.answers, front, self._chunk))
        except Exception as error:
            job.fail(error)

    def _go_on(self, large: _Large) -> None:
        job = large.job
        try:
            if job.cancelled:
                raise ClosedError("nobody waits for it any more")
            if job.request.deadline is not None and job.request.deadline <= time.monotonic():
                raise DeadlineError("the deadline has passed before the choices were scored")
            if (part := next(large.parts)) is None:
                return
            large.values += self._log_likelihoods([part])[0]
        except Exception as error:
            self.stop(error)
            return
        if len(large.values) == len(job.answers):
            self._now = None
            self._tell(job, large.values)

    def _batch(self, jobs: FairQueue[Job]) -> None:
        batch: list[Job] = []
        parts: list[Part] = []
        tokens = 0
        while (
            len(jobs) and not self._large(jobs.first()) and (not batch or tokens + jobs.first().tokens <= self._chunk)
        ):
            job = jobs.pop()
            try:
                parts.append(self._part(job))
                batch.append(job)
                tokens += job.tokens
            except Exception as error:  # one front's fault, and no other job's
                job.fail(error)
        if not batch:
            return
        try:
            found = self._log_likelihoods(parts)
        except Exception as error:
            for job in batch:
                job.fail(error)
            return
        for job, values in zip(batch, found, strict=True):
            self._tell(job, values)

    def _tell(self, job: Job, values: Sequence[float]) -> None:
        if all(map(math.isfinite, values)):
            job.done(choose_answer(job.prepared, job.answers, values))
        else:
            job.fail(ModelError(f"prompt {job.request.key!r}: the model's answer is no number"))

    def _part(self, job: Job) -> Part:
        prepared = job.prepared
        example = Example(prepared.ids[prepared.front :], job.answers)
        return self._backbone.part([example], self._front(prepared), prepared.vectors)

    def _log_likelihoods(self, parts: Sequence[Part]) -> list[list[float]]:
        """Nats per choice, of every part."""
        flat = self._backbone.log_probs_mixed(parts).double().cpu().numpy()
        counts = [[len(answer) for example in part.examples for answer in example.answers] for part in parts]
        sums = iter(np.add.reduceat(flat, np.cumsum([0, *chain(*counts)])[:-1]).tolist())
        return [list(islice(sums, len(count))) for count in counts]

    def _front(self, prepared: Prepared) -> PrefixCache:
        front = self._fronts.get(prepared.key)
        if front is None:
            self._fronts.misses += 1
            front = self._backbone.prefill(prepared.ids[: prepared.front], prepared.vectors)
            check(prepared.request.prompt, front.cache)
            self._fronts.put(prepared.key, front)
        else:
            self._fronts.hits += 1
        return front


def pieces(
    backbone: Backbone, prepared: Prepared, answers: Answers, front: PrefixCache, chunk: int
) -> Iterator[Part | None]:
    """What is to be scored of one request that is too large for a step: some choices after others, in parts.

    A part has `chunk` tokens at most; None comes behind every piece of the question that has been read.

    The question is read once: all but its last token, with which every part begins, becomes a longer front. For
    backbones that pack. One choice of more than `chunk` tokens is a part of its own.
    """
    ids, vectors, last = prepared.ids, prepared.vectors, len(prepared.ids) - 1
    cache = backbone.embedder.new_cache(front.cache)
    for start in range(prepared.front, last, chunk):
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
