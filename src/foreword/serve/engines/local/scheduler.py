"""The model's own thread: admits rows, runs steps, gives tokens away. Knows rows and a runner; knows no event loop."""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreword.serve.engines.local.choice_scoring import ChoiceJob, ChoiceScorer
from foreword.serve.engines.local.generation import Generation
from foreword.serve.engines.local.runner import Runner
from foreword.serve.engines.local.text_scoring import TextJob, TextScorer
from foreword.serve.engines.queueing import FairQueue, Pace
from foreword.serve.engines.seam import ClosedError, DeadlineError, ModelError
from foreword.serve.log import failure


@dataclass
class Counters:
    """What has been done; written by the loop alone, read by anyone."""

    steps: int = 0
    step_rows: int = 0
    last_rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    errors: int = 0


class Scheduler:
    """Continuous batching: rows come and go between steps, and no step waits for any of them."""

    def __init__(
        self,
        runner: Runner,
        choice_scorer: ChoiceScorer,
        text_scorer: TextScorer,
        max_rows: int,
        flush: Callable[[], None],
    ) -> None:
        self.counters, self.pace = Counters(), Pace()
        self.running: list[Generation] = []
        self._runner, self._choice_scorer, self._max_rows, self._flush = runner, choice_scorer, max_rows, flush
        self._text_scorer = text_scorer
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rows: FairQueue[Generation] = FairQueue()
        self._choice_jobs: FairQueue[ChoiceJob] = FairQueue()
        self._text_jobs: FairQueue[TextJob] = FairQueue()
        self._until: float | None = None

    # Called from other threads.

    def submit(self, row: Generation) -> None:
        """Queue a request for text."""
        self._inbox.put(lambda: self._rows.push(row.request.key, row))

    def submit_choices(self, job: ChoiceJob) -> None:
        """Queue a request for a choice."""
        self._inbox.put(lambda: self._choice_jobs.push(job.request.key, job))

    def submit_text(self, job: TextJob) -> None:
        """Queue a request for the log-probabilities of a text."""
        self._inbox.put(lambda: self._text_jobs.push(job.request.key, job))

    def wake(self) -> None:
        """Look at rows that have been cancelled."""
        self._inbox.put(lambda: None)

    def close(self, until: float) -> None:
        """Finish what there is, and end at `until` at the latest, by `time.monotonic()`."""

        def closing() -> None:
            self._until = until

        self._inbox.put(closing)

    # The loop's own thread.

    @torch.inference_mode()
    def run(self) -> None:
        """Run steps until it is closed; whatever happens, every row and job is told its end."""
        try:
            while self._until is None or not (self._idle() or time.monotonic() >= self._until):
                self._listen()
                self._drop()
                self._admit()
                self._choice_scorer.run(self._choice_jobs)
                self._text_scorer.run(self._text_jobs)
                self._step()
                self._flush()
        finally:
            self._hear()
            for row in [*self.running, *self._rows]:
                row.finish("cancelled")
            for job in [*self._choice_jobs, *self._text_jobs]:
                job.fail(ClosedError())
            for part in (self._choice_scorer, self._text_scorer):
                part.stop(ClosedError())
            self._sweep()
            self._flush()

    def _idle(self) -> bool:
        waiting = len(self._rows) + len(self._choice_jobs) + len(self._text_jobs)
        return not self.running and not waiting and self._choice_scorer.idle and self._text_scorer.idle

    def _listen(self) -> None:
        """Take what has come in; wait for it where there is nothing else to do."""
        if self._idle() and self._until is None:
            news = self._inbox.get()
            self.pace.clear()
            news()
        self._hear()

    def _hear(self) -> None:
        while True:
            try:
                self._inbox.get_nowait()()
            except queue.Empty:
                return

    def _drop(self) -> None:
        """Rows that nobody waits for any more, or whose time is over."""
        now = time.monotonic()

        def lost(item: Generation | ChoiceJob | TextJob) -> bool:
            return item.cancelled or (item.request.deadline is not None and item.request.deadline <= now)

        for row in [*self._rows.remove(lost), *filter(lost, self.running)]:
            row.finish("cancelled" if row.cancelled else "deadline")
        jobs: list[ChoiceJob | TextJob] = [*self._choice_jobs.remove(lost), *self._text_jobs.remove(lost)]
        for job in jobs:
            job.fail(DeadlineError("the deadline has passed before the request's turn came"))
        self._sweep()

    def _admit(self) -> None:
        """In turn, as long as there is room; who does not fit now is next as soon as it does."""
        while len(self._rows) and len(self.running) < self._max_rows:
            row = self._rows.first()
            try:
                if not self._runner.admit(row):
                    return
            except Exception as error:
                self._rows.pop()
                row.fail(error)
                self._count(row)
                continue
            self._rows.pop()
            self.running.append(row)
            row.sink.begun()

    def _step(self) -> None:
        try:
            rows, logits, read = self._runner.step()
        except Exception as error:  # memory, or a model's own: what ran in this step is lost, what waits is not
            for row in self.running:
                row.fail(error)
            self._sweep(wipe=True)
            return
        counters = self.counters
        counters.prompt_tokens += read
        if logits is not None:
            counters.steps += 1
            counters.step_rows += len(rows)
            counters.last_rows = len(rows)
            self._take(rows, logits)
        self._sweep()

    def _take(self, rows: Sequence[Generation], logits: Tensor) -> None:
        largest, best = logits.max(1)
        outcomes = zip(rows, largest.isfinite().tolist(), best.tolist(), strict=True)
        for i, (row, finite, token) in enumerate(outcomes):
            if row.over:
                continue
            if not finite:
                row.fail(ModelError(f"prompt {row.request.key!r}: the model gives non-finite logits"))
                row.non_finite = True
                continue
            before = len(row.written)
            try:
                row.take(logits[i], token)
            except Exception as error:  # a mask or a tokenizer of somebody else's
                row.fail(error)
            self.counters.completion_tokens += len(row.written) - before

    def _sweep(self, *, wipe: bool = False) -> None:
        """Free the places of rows that are over."""
        over = [row for row in self.running if row.over]
        if not over:
            return
        self.running = [row for row in self.running if not row.over]
        for row in over:
            self.pace.ended()
            self._count(row)
            self._runner.release(row, wipe=wipe or row.non_finite)

    def _count(self, row: Generation) -> None:
        if row.error is not None:
            self.counters.errors += 1
            problem = str(row.error) if isinstance(row.error, ModelError) else None  # which quotes no request
            failure("model", row.error, problem=problem, id=row.request.id, prompt=row.request.key)
