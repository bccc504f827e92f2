"""How much a run can do within a budget of time or rows. Knows what a step and a measurement take on this machine."""

import math
import statistics
import time
from dataclasses import replace

import torch

from foreword.backbone import Backbone
from foreword.budgets import parse_budget
from foreword.errors import UsageError
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning.accumulate import Accumulator
from foreword.tuning.learner import Learner
from foreword.tuning.methods import METHODS
from foreword.tuning.options import TuneOptions
from foreword.tuning.rows import Batch, TrainingRows, encode_rows
from foreword.tuning.served import dev_score, served
from foreword.tuning.start import begin, soften

MEASUREMENTS = 8
"""On dev, over a run, where they are cheap."""
SHARE = 0.2
"""Of the time that goes into them at most."""
FEWEST = 50
"""Dev rows below which a measurement says too little to choose by: there are two then, of the start and of the end."""
LEAST_ROWS = 10
"""Dev rows that say anything at all."""
LEAST = 10
"""Steps: fewer teach nothing."""
TIMED_STEPS, USUAL_STEPS = 3, 50
"""How many are timed, and how many are looked at for the usual length of one."""
TIMED_ROWS = 24


def plan(backbone: Backbone, task: Task, start: Prompt, options: TuneOptions, budget: str) -> TuneOptions:
    """`options` with as many steps, measurements and dev rows as `budget` allows, by timing a few of each.

    Raises UsageError, which names a budget that would do, where this one does not hold ten steps.
    """
    seconds, rows = parse_budget(budget, "rows")
    if rows is not None:
        dev, needed = min(options.dev_rows, len(task.dev)), f"{LEAST * options.batch}rows"
        return _spread(options, rows // options.batch, MEASUREMENTS, dev, budget, needed)
    assert seconds is not None
    step, row = _seconds(backbone, task, start, options)
    affordable = int(SHARE * seconds / row) if row else 0  # dev rows in all; with many choices each takes long
    times = min(MEASUREMENTS, max(1, affordable // FEWEST - 1)) if row else MEASUREMENTS  # one more before all steps
    dev = min(options.dev_rows, len(task.dev), max(LEAST_ROWS, affordable // (times + 1)))
    measured = row * dev * (times + 1)
    few = row * min(LEAST_ROWS, dev) * 2
    needed = f"{math.ceil(max(LEAST * step + few, LEAST * step / (1 - SHARE)))}s"
    return _spread(options, int((seconds - measured) / step), times, dev, budget, needed)


def _spread(options: TuneOptions, steps: int, times: int, dev_rows: int, budget: str, needed: str) -> TuneOptions:
    if steps < LEAST:
        raise UsageError(
            f"budget {budget!r} holds {max(steps, 0)} steps of {options.batch} rows, and fewer than {LEAST} teach "
            f"nothing; give {needed!r} or more, or a smaller batch"
        )
    return replace(
        options, steps=steps, eval_every=max(1, round(steps / times)), dev_rows=max(1, dev_rows),
        patience=max(2, MEASUREMENTS // 2),
    )  # fmt: skip


def _seconds(backbone: Backbone, task: Task, start: Prompt, options: TuneOptions) -> tuple[float, float]:
    """What a training step of usual length and a dev row take; the first step warms up and is not counted.

    Of the others' speeds the middle one counts: a step longer than all before it takes its memory anew, once.
    """
    method = METHODS[options.method]
    plain = start.answering(task.choices).without_prior()
    prompt = soften(plain, options.tokens, "timed", method.learns)
    rows = encode_rows(backbone, prompt, task, options.objective)
    origin = begin(backbone, prompt, method.learns, options, start, task.train, rows.longest)
    learner = Learner(options, [origin], backbone.device)
    accumulator = Accumulator(backbone, [rows])
    lengths = [_tokens(rows, rows.batch(step, options.batch, options.seed)) for step in range(USUAL_STEPS)]
    per_token = []
    for step in range(TIMED_STEPS + 1):
        began = time.perf_counter()
        accumulator.loss(learner.vectors(), [rows.batch(step, options.batch, options.seed)])
        learner.norm()
        learner.move(0.0)
        _wait()
        per_token.append((time.perf_counter() - began) / lengths[step])
    per_step = statistics.median(per_token[1:]) * statistics.mean(lengths)
    if not task.dev:
        return per_step, 0.0
    timed = served(backbone, prompt, learner.average, options.method, 0)
    began = time.perf_counter()
    dev_score(backbone, task, timed, task.dev[:TIMED_ROWS])
    return per_step, (time.perf_counter() - began) / len(task.dev[:TIMED_ROWS])


def _tokens(rows: TrainingRows, batch: Batch) -> int:
    """What a step reads."""
    return len(rows.front) + sum(map(len, batch[0]))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
