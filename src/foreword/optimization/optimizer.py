"""Optimization of a hard prompt, from the start to the test, told from top to bottom.

1. The start is measured on dev, as it is and calibrated: its score has to be beaten.
2. gepa searches: changes are tried on training rows, good ones on a part of dev, until the budget is used up.
3. The best few are measured on all of dev like the start; the best of them is chosen, or the start.
4. The test rows are read once, for the start and the chosen prompt.

Knows prompts, rows and models; knows no table.
"""

import hashlib
import json
import random
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from foreword.backbone import Backbone, LanguageModel
from foreword.budgets import parse_budget
from foreword.errors import ForewordError, UsageError
from foreword.evals import (
    CALIBRATION_ROWS,
    Candidate,
    evaluate_on_dev,
    is_right_or_wrong,
    paired_difference,
    score_interval,
)
from foreword.files import locked
from foreword.flows import Chain, PromptStrategy, measure
from foreword.interrupts import interrupts
from foreword.listen import SILENT, Listener, counter
from foreword.optimization.answering_step import AnsweringStep
from foreword.optimization.candidate import DEMONSTRATIONS, INSTRUCTION, SearchSpace
from foreword.optimization.engine import MINIBATCH, Adapter, Limits, search
from foreword.optimization.frame import frame
from foreword.optimization.journal import Journal
from foreword.optimization.outcome import Accepted, Optimized, Tested
from foreword.optimization.proposer import Proposer
from foreword.optimization.scorer import Scorer
from foreword.prompts import Prompt, expect_prompt
from foreword.tasks import Row, Task

BUDGET = "2000calls"
"""The default budget."""
DEV = 100
"""The most dev rows that the search measures on."""
TRAIN = 96
"""The most training rows that changes are tried on: few, so that a candidate's answers are soon in the journal."""
BIAS_ROWS = 32
"""The number of these rows that a prompt's label bias is measured on."""
POOL = 200
"""The most training rows to choose demonstrations from."""
FINALISTS = 3
"""The number of candidates that are measured on all of dev after the search."""


def optimize(
    model: LanguageModel,
    task: Task,
    prompt: Prompt | Chain,
    *,
    budget: str = BUDGET,
    proposer: LanguageModel | None = None,
    seed: int = 0,
    folder: Path | None = None,
    listener: Listener = SILENT,
) -> Optimized:
    """Search for words and demonstrations that answer `task` better than those of `prompt`, on the same model.

    Variables, roles and choices stay as they are. `proposer`, which may be `model` itself, rewords the instruction; it
    reads training rows that were answered wrongly. Without one, and if its proposal is refused, built-in edits are
    tried. `budget` limits the search in calls (one call is one row answered by one prompt) or in time; measuring the
    start and the finalists on all of dev comes on top. With `folder`, every measurement is kept there: the same call
    resumes the search, and a larger budget continues it. Ctrl-C ends the search and keeps the best so far.

    Of a chain, the prompt of the answering step is searched behind the steps before it, which stay as they are; rows
    that do not get that far are left out.

    Raises UsageError for a soft prompt, a budget below one round, or a folder of another search; ForewordError if the
    task has no dev rows or too few training rows, or if gepa is not installed.
    """
    began = time.perf_counter()
    seconds, calls = parse_budget(budget, "calls")
    whole, step = task, None
    start = _check_start(model, task, prompt.last if isinstance(prompt, Chain) else prompt)
    with locked(folder, "optimizing") if folder is not None else nullcontext():
        identity = _search_identity(model, task, start, proposer, seed)
        if isinstance(prompt, Chain):
            journal = Journal(folder, identity | {"chain": prompt.digest})
            step = AnsweringStep(model, prompt, journal, listener)
            task = step.task(task, TRAIN + POOL, seed)
        else:
            journal = Journal(folder, identity)
        train, pool, dev = _draw_rows(task, seed)
        [reference] = evaluate_on_dev(model, task, [start], listener)
        calibrated = isinstance(model, Backbone) and task.choices is not None and _calibrated_is_better(reference)
        bias_rows = train[:BIAS_ROWS] if calibrated else None
        space = SearchSpace(model, start, pool, [*train, *pool, *task.dev])
        one_round = 3 * MINIBATCH + len(dev) + len(bias_rows or ())
        minimum = len(dev) + len(bias_rows or ()) + one_round
        if calls is not None and calls < minimum:
            raise UsageError(f"budget {budget!r} does not hold one round of the search; give at least {minimum}calls")
        scorer = Scorer(model, task, journal, bias_rows)
        rewriter = Proposer(proposer, task, journal, seed) if proposer is not None else None
        with interrupts() as interrupted:
            limits = Limits(calls, seconds, one_round, interrupted)
            adapter = Adapter(task, space, scorer, rewriter, limits, seed, dev, listener)
            history = search(adapter, space.seed, train, dev, seed)
        leaders = sorted(history[1:], key=lambda step: -step.dev)[:FINALISTS]
        finalists = [_rebuild_prompt(space, step) for step in leaders]
        evaluated = evaluate_on_dev(model, task, finalists, listener) if finalists else []
        best = max([reference, *evaluated], key=lambda candidate: candidate.score)  # the start if they are equal
        improved = best.score > reference.score
        chosen = best.best
        if improved:
            chosen = chosen.replace(labelled_rows=start.labelled_rows + len(train) + len(pool))
        if improved and step is not None:
            task = replace(task, test=step.rows(whole.test, "test"))
        before = step.calls if step is not None else 0
        return Optimized(
            task=task.name,
            metric=task.metric,
            prompt=chosen,
            start=reference.best,
            dev=best.score,
            start_dev=reference.score,
            test=_measure_on_test(model, task, reference.best, chosen, listener) if improved and task.test else None,
            history=tuple(history),
            tried=adapter.tried,
            refused=tuple(adapter.refused),
            calls=before + scorer.calls + sum(_count_dev_calls(task, one) for one in (reference, *evaluated)),
            seconds=time.perf_counter() - began,
            stopped=adapter.stopped,
        )


def _check_start(model: LanguageModel, task: Task, prompt: Prompt) -> Prompt:
    """Return the start with the task's choices.

    Raises ForewordError or UsageError, before anything is measured, if it cannot be searched from.
    """
    if expect_prompt(prompt).virtual_tokens:
        raise UsageError(f"prompt {prompt.name!r} is soft: optimize searches for words; 'foreword tune' learns vectors")
    if frame(prompt.body) is None:
        raise UsageError(f"prompt {prompt.name!r} shows no row, so that it answers all rows alike; add a variable")
    if not task.dev:
        raise ForewordError(f"task {task.name!r} has no dev rows to choose on; give it some: 'split: {{dev: 200}}'")
    if len(task.train) < 2:
        raise ForewordError(f"task {task.name!r} has {len(task.train)} training rows to try changes on; give it more")
    start = prompt.answering(task.choices)
    model.check(start)
    return start


def _draw_rows(task: Task, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Draw training rows to try changes on, others to show, and dev rows; at random, because files may be sorted."""
    rng = random.Random(seed)
    rows = rng.sample(task.train, len(task.train))
    size = min(TRAIN, len(rows) // 2)
    return rows[:size], rows[size:][:POOL], rng.sample(task.dev, min(DEV, len(task.dev)))


def _calibrated_is_better(start: Candidate) -> bool:
    """Return whether to search with calibration: also if both forms score the same, or if the start has a prior."""
    if start.calibrated_score is None:
        return start.plain.output.log_prior is not None
    return start.calibrated_score >= start.plain_score


def _search_identity(
    model: LanguageModel, task: Task, start: Prompt, proposer: LanguageModel | None, seed: int
) -> dict[str, str]:
    """Return what must be the same for a search to be resumed. The test rows are no part of it: they stay unread."""
    rows = hashlib.sha256()
    for row in (*task.train, *task.dev):
        rows.update(json.dumps([row.id, dict(row.inputs), row.target], sort_keys=True).encode() + b"\n")
    return {
        "start": start.digest,
        "rows": rows.hexdigest(),
        "metric": task.metric,
        "backbone": model.fingerprint if isinstance(model, Backbone) else model.name,
        "dtype": str(model.dtype) if isinstance(model, Backbone) else "",
        "proposer": proposer.name if proposer is not None else "",
        "seed": str(seed),
    }


def _rebuild_prompt(space: SearchSpace, step: Accepted) -> Prompt:
    parts = {INSTRUCTION: step.body}
    if space.start.examples is None:
        parts[DEMONSTRATIONS] = json.dumps(step.demonstrations)
    return space.prompt(parts)


def _count_dev_calls(task: Task, evaluated: Candidate) -> int:
    """Count the rows that `evaluate_on_dev` had answered for a candidate."""
    return len(task.dev) + (min(CALIBRATION_ROWS, len(task.train)) if evaluated.calibrated is not None else 0)


def _measure_on_test(model: LanguageModel, task: Task, start: Prompt, chosen: Prompt, listener: Listener) -> Tested:
    """Measure both prompts on the test rows, which are read here for the first time."""
    a, b = (
        measure(PromptStrategy(prompt, model), task, task.test, counter(listener, f"{what}: test")).scores
        for prompt, what in ((start, "start"), (chosen, "found"))
    )
    gap = paired_difference(b, a, task.seed)
    intervals = score_interval(a, task.seed), score_interval(b, task.seed)
    return Tested(len(task.test), *intervals, gap, not is_right_or_wrong([*a, *b]))
