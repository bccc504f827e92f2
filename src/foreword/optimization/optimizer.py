"""From a hard prompt to a better one: the story, top to bottom.

1. The start is measured on dev, as it is and calibrated: that is what has to be beaten.
2. gepa searches: changes are tried on training rows, good ones on a part of dev, until the budget is used up.
3. The best few are measured on all of dev like the start; the best of them is taken, or the start.
4. Test is opened, once, for the start and the prompt that was taken.
"""

import hashlib
import json
import random
import time
from contextlib import nullcontext
from pathlib import Path

from foreword.backbone import Backbone, LanguageModel
from foreword.budgets import parse_budget
from foreword.errors import ForewordError, UsageError
from foreword.evals import CALIBRATION_ROWS, Candidate, evaluate_on_dev
from foreword.evals.statistics import is_right_or_wrong, paired_difference, score_interval
from foreword.files import locked
from foreword.flows import PromptStrategy, measure
from foreword.interrupts import interrupts
from foreword.listen import SILENT, Listener, counter
from foreword.optimization.candidate import DEMONSTRATIONS, INSTRUCTION, SearchSpace
from foreword.optimization.engine import MINIBATCH, Adapter, Limits, search
from foreword.optimization.frame import frame
from foreword.optimization.journal import Journal
from foreword.optimization.outcome import Accepted, Optimized, Tested
from foreword.optimization.proposer import Proposer
from foreword.optimization.scorer import Scorer
from foreword.prompts import Prompt
from foreword.prompts.prompt import expect_prompt
from foreword.tasks import Row, Task

BUDGET = "2000calls"
DEV = 100
"""Dev rows that the search measures on."""
TRAIN = 96
"""Training rows that changes are tried on: few, so that a candidate's answers to them are soon known."""
BIAS_ROWS = 32
"""Of these, rows that a prompt's label bias is measured on."""
POOL = 200
"""Training rows that may be shown as demonstrations."""
FINALISTS = 3


def optimize(
    model: LanguageModel,
    task: Task,
    prompt: Prompt,
    *,
    budget: str = BUDGET,
    proposer: LanguageModel | None = None,
    seed: int = 0,
    folder: Path | None = None,
    listener: Listener = SILENT,
) -> Optimized:
    """Search for words and demonstrations that answer `task` better than those of `prompt`, on the same model.

    Variables, roles and choices stay as they are. `proposer`, which may be `model` itself, rewords the instruction; it
    is shown training rows that are answered wrongly. Without one, and where its proposals do not fit, built-in edits
    are tried. `budget` bounds the search in calls, a row answered by a prompt each, or in time; measuring the start and
    the finalists on all of dev comes on top. With `folder`, all that is measured is kept there: the same call goes on
    where it was ended, and a larger budget goes further. Ctrl-C ends the search with what it has found.

    Raises UsageError for a soft prompt, a budget that holds no round, or a folder of another search; ForewordError
    where the task has no dev or training rows, or gepa is not installed.
    """
    began = time.perf_counter()
    seconds, calls = parse_budget(budget, "calls")
    start = _checked(model, task, prompt)
    train, pool, dev = _rows(task, seed)
    with locked(folder, "optimizing") if folder is not None else nullcontext():
        journal = Journal(folder, _about(model, task, start, proposer, seed))
        [reference] = evaluate_on_dev(model, task, [start], listener)
        calibrated = isinstance(model, Backbone) and task.choices is not None and _calibrated_is_better(reference)
        bias_rows = train[:BIAS_ROWS] if calibrated else None
        space = SearchSpace(model, start, pool, [*train, *pool, *task.dev])
        one_round = 3 * MINIBATCH + len(dev) + len(bias_rows or ())
        least = len(dev) + len(bias_rows or ()) + one_round
        if calls is not None and calls < least:
            raise UsageError(f"budget {budget!r} does not hold one round of the search; give at least {least}calls")
        scorer = Scorer(model, task, journal, bias_rows)
        thinker = Proposer(proposer, task, journal, seed) if proposer is not None else None
        with interrupts() as pressed:
            limits = Limits(calls, seconds, one_round, pressed)
            adapter = Adapter(task, space, scorer, thinker, limits, seed, dev, listener)
            history = search(adapter, space.seed, train, dev, seed)
        finalists = [_made(space, step) for step in sorted(history[1:], key=lambda step: -step.dev)[:FINALISTS]]
        weighed = evaluate_on_dev(model, task, finalists, listener) if finalists else []
        best = max([reference, *weighed], key=lambda candidate: candidate.score)  # the start, where they are equal
        improved = best.score > reference.score
        found = best.best
        if improved:
            found = found.replace(labelled_rows=start.labelled_rows + len(train) + len(pool))
        return Optimized(
            task=task.name,
            metric=task.metric,
            prompt=found,
            start=reference.best,
            dev=best.score,
            start_dev=reference.score,
            test=_test(model, task, reference.best, found, listener) if improved and task.test else None,
            history=tuple(history),
            tried=adapter.tried,
            refused=tuple(adapter.refused),
            calls=scorer.calls + sum(_calls(task, one) for one in (reference, *weighed)),
            seconds=time.perf_counter() - began,
            stopped=adapter.stopped,
        )


def _checked(model: LanguageModel, task: Task, prompt: Prompt) -> Prompt:
    """The start, fit to be changed; all that can be wrong with it is told before anything is measured."""
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


def _rows(task: Task, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Training rows to try changes on, others to show, and dev rows to search on: drawn, for files may be sorted."""
    rng = random.Random(seed)
    rows = rng.sample(task.train, len(task.train))
    cut = min(TRAIN, len(rows) // 2)
    return rows[:cut], rows[cut:][:POOL], rng.sample(task.dev, min(DEV, len(task.dev)))


def _calibrated_is_better(start: Candidate) -> bool:
    """A start that brings a prior of its own was calibrated once; one for which it makes no difference may be."""
    if start.calibrated_score is None:
        return start.plain.output.log_prior is not None
    return start.calibrated_score >= start.plain_score


def _about(
    model: LanguageModel, task: Task, start: Prompt, proposer: LanguageModel | None, seed: int
) -> dict[str, str]:
    """What must be the same for a search to go on. The test rows are no part of it: they are not read yet."""
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


def _made(space: SearchSpace, step: Accepted) -> Prompt:
    parts = {INSTRUCTION: step.body}
    if space.start.examples is None:
        parts[DEMONSTRATIONS] = json.dumps(step.demonstrations)
    return space.prompt(parts)


def _calls(task: Task, weighed: Candidate) -> int:
    """Rows that `evaluate_on_dev` asked for."""
    return len(task.dev) + (min(CALIBRATION_ROWS, len(task.train)) if weighed.calibrated is not None else 0)


def _test(model: LanguageModel, task: Task, start: Prompt, found: Prompt, listener: Listener) -> Tested:
    """Opens the test rows."""
    a, b = (
        measure(PromptStrategy(prompt, model), task, task.test, counter(listener, f"{what}: test")).scores
        for prompt, what in ((start, "start"), (found, "found"))
    )
    gap = paired_difference(b, a, task.seed)
    intervals = score_interval(a, task.seed), score_interval(b, task.seed)
    return Tested(len(task.test), *intervals, gap, not is_right_or_wrong([*a, *b]))
