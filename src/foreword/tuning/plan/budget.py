"""How much a run can do within a budget of time or rows. Knows what a step and a measurement take on this machine."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from foreword.backbone import Backbone
from foreword.budgets import parse_budget
from foreword.errors import UsageError
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning.learner import SoftPromptLearner
from foreword.tuning.loss import Accumulator
from foreword.tuning.options import TuneOptions
from foreword.tuning.setup import measure_dev, set_up
from foreword.tuning.start import begin

MEASUREMENTS = 8
"""On dev, over a run, where they are cheap."""
SHARE = 0.2
"""The share of the budget that these measurements may take."""
FEWEST = 50
"""Dev rows below which a measurement says too little to choose by: there are two then, of the start and of the end."""
LEAST_ROWS = 10
"""Dev rows that say anything at all."""
LEAST = 10
"""Steps: fewer teach nothing."""
SIZES, ENOUGH = (4, 8, 16), 150
"""Rows of a step where nobody says how many: the most that leave so many steps. With SmolLM2-135M such runs did as well
as fewer steps of more rows, or far better (docs/LOG.md)."""
TIMED_STEPS, USUAL_STEPS = 3, 50
"""How many are timed, and how many are looked at for the usual length of one."""
TIMED_ROWS = 24


def fit_budget(
    backbone: Backbone, task: Task, start: Prompt, options: TuneOptions, budget: str, given: Sequence[str] = ()
) -> TuneOptions:
    """`options` with as many steps, measurements and dev rows as `budget` allows, by timing a few of each.

    Where `batch` is not among the names that are `given`, its rows per step are planned too.
    Raises UsageError, which names a budget that would do, where this one does not hold ten steps.
    """
    seconds, rows = parse_budget(budget, "rows")
    sizes = [size for size in SIZES if size <= len(task.train)] or [SIZES[0]]
    if "batch" in given:
        sizes = [options.batch]
    if rows is not None:
        batch = max((size for size in sizes if rows // size >= ENOUGH), default=sizes[0])
        dev, needed = min(options.dev_rows, len(task.dev)), f"{LEAST * batch}rows"
        return _spread(replace(options, batch=batch), rows // batch, MEASUREMENTS, dev, budget, needed)
    assert seconds is not None
    clock = _Stopwatch(backbone, task, start, options)
    batch, step = sizes[0], clock.step(sizes[0])
    row = clock.dev_row()
    affordable = int(SHARE * seconds / row) if row else 0  # dev rows in all; with many choices each takes long
    times = min(MEASUREMENTS, max(1, affordable // FEWEST - 1)) if row else MEASUREMENTS  # one more before all steps
    dev = min(options.dev_rows, len(task.dev), max(LEAST_ROWS, affordable // (times + 1)))
    left = seconds - row * dev * (times + 1)
    for larger in sizes[1:]:
        if left / step < ENOUGH or left / (longer := clock.step(larger)) < ENOUGH:
            break
        batch, step = larger, longer
    few = row * min(LEAST_ROWS, dev) * 2
    needed = f"{math.ceil(max(LEAST * step + few, LEAST * step / (1 - SHARE)))}s"
    return _spread(replace(options, batch=batch), int(left / step), times, dev, budget, needed)


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


class _Stopwatch:
    """A run of its own that learns nothing: what its steps and its looks at dev take."""

    def __init__(self, backbone: Backbone, task: Task, start: Prompt, options: TuneOptions) -> None:
        self.setup, self.options = set_up(backbone, task, start, options)
        origin = begin(backbone, self.setup, self.options)
        self.learner = SoftPromptLearner(backbone, [self.setup.prompt], [origin], self.options)
        self.accumulator = Accumulator(backbone, [self.setup.rows])

    def step(self, batch: int) -> float:
        """Seconds of a training step of usual length; the first one warms up and is not counted.

        Of the others' speeds the middle one counts: a step longer than all before it takes its memory anew, once.
        """
        rows = self.setup.rows
        steps = [rows.batch(step, batch, self.options.seed) for step in range(USUAL_STEPS)]
        lengths = [len(rows.shared_prefix) + sum(map(len, examples)) for examples, _ in steps]
        per_token = []
        for given, length in zip(steps[: TIMED_STEPS + 1], lengths, strict=False):
            began = time.perf_counter()
            self.accumulator.loss(self.learner.vectors(), [given])
            self.learner.backward_and_clip()
            self.learner.optimizer_step(0.0)
            _wait()
            per_token.append((time.perf_counter() - began) / length)
        return statistics.median(per_token[1:]) * statistics.mean(lengths)

    def dev_row(self) -> float:
        """Seconds; 0.0 where there are none."""
        model, task = self.learner.backbone, self.setup.task
        rows = task.dev[:TIMED_ROWS]
        if not rows:
            return 0.0
        with self.learner.evaluating() as [prompt]:
            measure_dev(model, task, prompt, rows[:1])  # warms up
            began = time.perf_counter()
            measure_dev(model, task, prompt, rows)
            return (time.perf_counter() - began) / len(rows)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
