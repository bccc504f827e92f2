"""Choices scored for many requests at once, whatever their prompts. Knows the backbone; knows no event loop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from foreword.backbone.answer import Answer
from foreword.backbone.backbone import Backbone
from foreword.backbone.batch import Example
from foreword.backbone.model import Front
from foreword.serve.choices import chosen
from foreword.serve.engine import ModelError, Request
from foreword.serve.local.fair import FairQueue
from foreword.serve.local.fronts import Fronts, check
from foreword.serve.prepare import Prepared


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
        self.done(error)


class Classifier:
    """Scores what waits, at most `chunk` tokens between two steps, so that rows that write go on."""

    def __init__(self, backbone: Backbone, fronts: Fronts, chunk: int) -> None:
        self._backbone, self._fronts, self._chunk = backbone, fronts, chunk

    def run(self, jobs: FairQueue[Job]) -> None:
        """One batch of those whose turn it is."""
        batch: list[tuple[Job, Front]] = []
        tokens = 0
        while len(jobs) and (not batch or tokens + jobs.first().tokens <= self._chunk):
            job = jobs.pop()
            try:
                batch.append((job, self._front(job.prepared)))
                tokens += job.tokens
            except Exception as error:  # one front's fault, and no other job's
                job.fail(error)
        if not batch:
            return
        try:
            found = self._log_likelihoods(batch)
        except Exception as error:
            for job, _ in batch:
                job.fail(error)
            return
        for (job, _), values in zip(batch, found, strict=True):
            if all(map(math.isfinite, values)):
                job.done(chosen(job.prepared, job.answers, values))
            else:
                job.fail(ModelError(f"prompt {job.request.key!r}: the model's answer is no number"))

    def _log_likelihoods(self, batch: Sequence[tuple[Job, Front]]) -> list[list[float]]:
        """Nats per choice, of every job."""
        parts = []
        for job, front in batch:
            prepared = job.prepared
            example = Example(prepared.ids[prepared.front :], job.answers)
            parts.append(self._backbone.part([example], front, prepared.vectors))
        flat = self._backbone.log_probs_mixed(parts).double().cpu().numpy()
        starts = np.cumsum([0, *(len(answer) for job, _ in batch for answer in job.answers)])[:-1]
        sums, found = np.add.reduceat(flat, starts).tolist(), []
        for job, _ in batch:
            found.append(sums[: len(job.answers)])
            sums = sums[len(job.answers) :]
        return found

    def _front(self, prepared: Prepared) -> Front:
        front = self._fronts.get(prepared.key)
        if front is None:
            self._fronts.misses += 1
            front = self._backbone.prefill(prepared.ids[: prepared.front], prepared.vectors)
            check(prepared.request.prompt, front.cache)
            self._fronts.put(prepared.key, front)
        else:
            self._fronts.hits += 1
        return front
