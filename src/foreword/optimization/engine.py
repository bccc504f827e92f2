"""The search itself: runs gepa over the candidates of a task until a limit is reached.

GEPA (Agrawal et al. 2025) keeps the candidates that are best on some dev row, changes one of them, tries the change on
a few training rows and, if that helps, measures it on dev; two candidates with changes in different parts are merged.
Knows gepa, candidates and scores; knows no files: gepa's own saved state is a pickle, which runs code when it is read,
so it is switched off, and `journal` keeps the scores instead.
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foreword.errors import ForewordError
from foreword.listen import Listener
from foreword.optimization.candidate import (
    DEMONSTRATIONS,
    INSTRUCTION,
    Parts,
    RefusedError,
    SearchSpace,
    demonstrations,
)
from foreword.optimization.edits import reshow, reword
from foreword.optimization.frame import frame
from foreword.optimization.outcome import Accepted
from foreword.optimization.proposer import MISTAKES, Proposer
from foreword.optimization.scorer import Scorer
from foreword.tasks import Row, Task

if TYPE_CHECKING:
    from gepa.core.adapter import EvaluationBatch

MINIBATCH = 24
"""The number of training rows that a change is tried on first."""
TRIES = 30
"""The most edits that are drawn per round until one is new and valid."""
IDLE = 25
"""The search ends after this many rounds without anything new to measure."""


@dataclass
class Limits:
    """The limits of a search: calls, seconds (None is no limit) and an interrupt.

    `round` is the most calls that one round may take, so that `calls` is never exceeded.
    """

    calls: int | None
    seconds: float | None
    round: int
    interrupted: Callable[[], bool]
    began: float = field(default_factory=time.monotonic)

    def reached(self, calls: int) -> str | None:
        """Return why the search must stop after `calls`; None if it may go on."""
        if self.interrupted():
            return "interrupted"
        if self.calls is not None and calls + self.round > self.calls:
            return "the calls are used up"
        if self.seconds is not None and time.monotonic() - self.began >= self.seconds:
            return "the time is used up"
        return None


class Adapter:
    """The adapter between gepa and a task; gepa calls its public methods."""

    def __init__(
        self, task: Task, space: SearchSpace, scorer: Scorer, proposer: Proposer | None, limits: Limits, seed: int,
        dev: Sequence[Row], listener: Listener,
    ) -> None:  # fmt: skip
        self.stopped = ""
        self.failure: Exception | None = None
        self.refused: list[str] = []
        self._task, self._space, self._scorer, self._proposer = task, space, scorer, proposer
        self._limits, self._rng, self._listener = limits, random.Random(seed), listener
        self._dev = len(dev), {row.id for row in dev}
        self._seen: set[str] = {space.start.digest}
        self._tried: set[str] = set()
        self._best: tuple[float, Parts] | None = None
        self._measured: dict[str, int] = {}
        self._idle, self._calls_before = 0, -1

    @property
    def tried(self) -> int:
        """Return the number of different prompts that were measured."""
        return len(self._tried)

    def finished(self, _state: object) -> bool:
        """Return whether the search is over, and note why; gepa calls this before every round."""
        calls = self._scorer.calls
        self._idle = self._idle + 1 if calls == self._calls_before else 0
        self._calls_before = calls
        if self.failure is not None:
            self.stopped = "failed"
        elif self._idle >= IDLE:
            self.stopped = "nothing new was left to try"
        else:
            self.stopped = self._limits.reached(calls) or ""
        return bool(self.stopped)

    def evaluate(
        self, batch: list[Row], candidate: Parts, capture_traces: bool = False
    ) -> "EvaluationBatch[dict[str, Any], str]":
        """Score each row by the task's metric; a refused candidate scores -1 without a call of the model."""
        from gepa.core.adapter import EvaluationBatch

        before = self._scorer.calls
        try:
            prompt = self._space.prompt(candidate)
            answers, scores = self._scorer.answer_and_score(prompt, batch)
            self._tried.add(prompt.digest)
        except RefusedError as error:  # a merge of two that fit alone
            self._refuse(str(error))
            return EvaluationBatch([""] * len(batch), [-1.0] * len(batch), [], None, 0)
        except Exception as error:  # gepa goes on after errors; a model that fails ends the search
            self.failure = error
            raise
        if len(batch) == self._dev[0] and all(row.id in self._dev[1] for row in batch):
            self._report_progress(candidate, sum(scores) / len(scores))
        traces = [
            {"inputs": dict(row.inputs), "answer": answer, "target": row.target, "score": score}
            for row, answer, score in zip(batch, answers, scores, strict=True)
        ]
        calls = self._scorer.calls - before
        return EvaluationBatch(answers, scores, traces if capture_traces else None, None, calls)

    def make_reflective_dataset(
        self,
        candidate: Parts,  # noqa: ARG002 - as gepa calls it
        eval_batch: "EvaluationBatch[dict[str, Any], str]",
        components_to_update: list[int],
    ) -> Mapping[int, Sequence[Mapping[str, Any]]]:
        """Return the rows of the evaluation that `candidate` answered wrongly."""
        wrong = [trace for trace in eval_batch.trajectories or () if trace["score"] < 1]
        return dict.fromkeys(components_to_update, wrong)

    def propose_new_texts(
        self,
        candidate: Parts,
        reflective_dataset: Mapping[int, Sequence[Mapping[str, Any]]],
        components_to_update: list[int],
    ) -> dict[int, str]:
        """Return another text for one part of `candidate`; empty if no new and valid one was drawn."""
        part = components_to_update[0]
        try:
            mistakes = reflective_dataset[part][:MISTAKES]
            wording = self._propose_wording(candidate, mistakes) if part == INSTRUCTION else None
            if wording is not None and self._is_new_and_valid({**candidate, part: wording}):
                return {part: wording}
            wrong = self._measure_mistakes(candidate) if part == DEMONSTRATIONS else []
            for _ in range(TRIES):
                text = self._draw_edit(candidate, part, wrong)
                if text is not None and text != candidate[part] and self._is_new_and_valid({**candidate, part: text}):
                    return {part: text}
        except Exception as error:
            self.failure = error
        return {}

    def _propose_wording(self, candidate: Parts, mistakes: Sequence[Mapping[str, Any]]) -> str | None:
        if self._proposer is None or self._rng.random() > self._proposer.share:
            return None
        try:
            return self._proposer.propose(candidate[INSTRUCTION], mistakes)
        except RefusedError as error:
            self._refuse(str(error))
            return None

    def _draw_edit(self, candidate: Parts, part: int, wrong: Sequence[Row]) -> str | None:
        if part == DEMONSTRATIONS:
            pool = list(self._space.pool.values())
            return json.dumps(reshow(demonstrations(candidate), pool, wrong, self._rng))
        parts = frame(candidate[INSTRUCTION])
        return reword(parts, self._task, self._rng).body if parts is not None else None

    def _measure_mistakes(self, candidate: Parts) -> list[Row]:
        """Measure `candidate` on some rows of the pool, and return those that it answers wrongly.

        The pool shares no row with the training rows that changes are tried on: to score a row that the prompt shows
        would tell nothing.
        """
        pool = list(self._space.pool.values())
        if not pool:
            return []
        shown = demonstrations(candidate)
        rows = [row for row in self._rng.sample(pool, min(MINIBATCH, len(pool))) if row.id not in shown]
        if not rows:
            return []
        _, scores = self._scorer.answer_and_score(self._space.prompt(candidate), rows)
        return [row for row, score in zip(rows, scores, strict=True) if score < 1]

    def _is_new_and_valid(self, parts: Parts) -> bool:
        """Return whether `parts` make a valid prompt that was not seen before, and remember it as seen."""
        try:
            digest = self._space.prompt(parts).digest
        except RefusedError as error:
            self._refuse(str(error))
            return False
        new = digest not in self._seen
        self._seen.add(digest)
        return new

    def step(self, parts: Parts, parents: Sequence[int | None], dev: float) -> Accepted:
        """Return the record of a candidate that was measured on dev."""
        calls = self._measured[self._space.prompt(parts).digest]
        indices = tuple(parent for parent in parents if parent is not None)
        return Accepted(calls, indices, dev, parts[INSTRUCTION], demonstrations(parts))

    def _refuse(self, reason: str) -> None:
        self.refused.append(reason)

    def _report_progress(self, candidate: Parts, score: float) -> None:
        """Tell the listener each new best candidate, and the calls so far."""
        calls = self._scorer.calls
        self._measured.setdefault(self._space.prompt(candidate).digest, calls)
        if self._best is None or score > self._best[0]:
            self._best = score, dict(candidate)
            count = len(demonstrations(candidate))
            suffix = f" and {count} demonstrations" if count else ""
            self._listener.say(f"  {calls:6,} calls  dev {score:.3f}  {candidate[INSTRUCTION]!r}{suffix}")
        figures = f"best dev {self._best[0]:.3f}, {self.tried} tried"
        self._listener.stage("calls", calls, self._limits.calls or 0, figures)


class _Silent:
    def log(self, message: str) -> None:
        """Drop gepa's log line; the listener is told what matters."""


def search(
    adapter: Adapter, seed_candidate: Parts, train: Sequence[Row], dev: Sequence[Row], seed: int
) -> list[Accepted]:
    """Run the search; return the candidates that were measured on dev, the start first.

    Raises ForewordError if gepa is not installed, and whatever the model raised if it failed.
    """
    try:
        from gepa.api import optimize
    except ImportError:
        raise ForewordError("optimize needs gepa: pip install 'foreword[optimize]'") from None
    run: Any = optimize  # its types demand strings as names of the parts
    result = run(
        seed_candidate=dict(seed_candidate),
        trainset=list(train),
        valset=list(dev),
        adapter=adapter,
        reflection_minibatch_size=min(MINIBATCH, len(train)),
        use_merge=len(seed_candidate) > 1,
        stop_callbacks=adapter.finished,
        logger=_Silent(),
        track_best_outputs=False,
        raise_on_exception=False,
        seed=seed,
    )
    if adapter.failure is not None:
        raise adapter.failure
    return [
        adapter.step(parts, parents, dev)
        for parts, parents, dev in zip(result.candidates, result.parents, result.val_aggregate_scores, strict=True)
    ]
