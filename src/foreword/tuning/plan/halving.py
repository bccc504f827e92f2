"""A small search by successive halving (Jamieson and Talwalkar 2016): many prompts learned in one batch.

Every trial is a prompt with settings of its own. All of them read the same rows in the same forward pass, each behind
its own shared prefix; after every rung the worse ones on dev drop out. What comes out is settings: the run itself
starts anew.
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.listen import SILENT, Listener
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning.learner import SoftPromptLearner
from foreword.tuning.loss import Accumulator
from foreword.tuning.methods import METHODS, flat
from foreword.tuning.options import TuneOptions
from foreword.tuning.setup import Encoded, measure_dev, set_up
from foreword.tuning.start import begin

RUNGS = (20, 60, 120)
"""Steps after which trials drop out; none learns for longer than the run that is to come."""
KEEP = 1 / 3
"""The share of trials that a rung leaves."""
DEV_ROWS = 200
WARM_UP = 5
"""Steps of a linear warm-up; then the rate stays, because nobody knows yet who will go on."""

METHODS_TRIED = ("prompt-tuning", "prefix-tuning")
RATES = (0.5, 1.0, 2.0)
TOKENS = (8, 16, 32)
STARTS_TRIED = ("text", "vocabulary")


@dataclass(frozen=True)
class TrialResult:
    """Settings, and how they did on dev as far as they came."""

    options: TuneOptions
    steps: int = 0
    dev: float | None = None

    def __str__(self) -> str:
        o = self.options
        return f"{o.method}, {o.tokens} tokens, from {o.init}, lr {o.rate:.2g}"


def grid(given: TuneOptions, fixed: Sequence[str], count: int, start: Prompt) -> list[TuneOptions]:
    """`count` settings: the ones `given`, and others drawn by its seed that differ in what is not `fixed`.

    A start with places for virtual tokens fixes their number, and one with vectors where they begin.
    """
    places, soft = start.virtual_tokens, start.soft
    prefix = soft is not None and "keys" in soft.tensors
    init = given.init or ("prompt" if soft else "text")
    first = replace(given, tokens=places or given.tokens, init=init, learning_rate=given.rate)
    opens = not places or start.body.startswith(f"{{{{ virtual({places}) }}}}")
    methods: Sequence[str] = [m for m in METHODS_TRIED if METHODS[m].learns == "prefix" or not prefix]
    methods = [m for m in methods if METHODS[m].learns == "tokens" or opens]
    if prefix and "method" not in fixed:
        rate = first.rate if "learning_rate" in fixed else METHODS["prefix-tuning"].learning_rate
        first = replace(first, method="prefix-tuning", learning_rate=rate)
    methods = [given.method] if "method" in fixed else methods
    rates = [None] if "learning_rate" in fixed else RATES
    tokens = [first.tokens] if "tokens" in fixed or places else TOKENS
    starts = [first.init] if soft or {"init", "init_text"} & set(fixed) else STARTS_TRIED
    made = [
        replace(
            given, method=method, tokens=P, init=init,
            learning_rate=first.learning_rate if rate is None else METHODS[method].learning_rate * rate,
        )
        for method, rate, P, init in itertools.product(methods, rates, tokens, starts)
    ]  # fmt: skip
    others = [options for options in made if options != first]
    return [first, *random.Random(given.seed).sample(others, min(count - 1, len(others)))]


def sweep(
    backbone: Backbone, task: Task, start: Prompt, settings: Sequence[TuneOptions], listener: Listener = SILENT
) -> list[TrialResult]:
    """Try `settings` and return all trials, the best first: those that came further stand before those that did not.

    `listener` hears every step as a stage, and after each rung how every trial did.
    """
    if not task.dev:
        raise ForewordError(
            f"task {task.name!r} has no dev rows to choose settings on; give it some: split: {{dev: 200}}"
        )
    known: Encoded = {}
    trials = [Trial(backbone, task, start, options, known) for options in settings]
    out: list[TrialResult] = []
    done = 0
    rungs = sorted({min(rung, settings[0].steps) for rung in RUNGS})
    for until in rungs:
        accumulator = Accumulator(backbone, [trial.setup.rows for trial in trials])
        for step in range(done, until):
            step_together(accumulator, trials, step)
            listener.stage("sweep", step + 1, rungs[-1])
        done = until
        ranked = sorted(trials, key=lambda trial: -trial.measure(done))
        going = 1 if until == rungs[-1] else max(1, round(len(ranked) * KEEP))
        for place, trial in enumerate(ranked):
            fate = "goes on" if place < going else "drops out"
            listener.say(f"  {done:3} steps  dev {trial.result.dev:.3f}  {fate:9}  {trial.result}")
        out = [trial.result for trial in ranked[going:]] + out
        trials = ranked[:going]
        if len(trials) == 1:
            break
    return [trials[0].result, *out]


class Trial:
    """A prompt that learns with settings of its own; rows in `known` are not encoded again."""

    def __init__(
        self, backbone: Backbone, task: Task, start: Prompt, options: TuneOptions, known: Encoded | None = None
    ) -> None:
        self.result = TrialResult(options)
        self.setup, self.options = set_up(backbone, task, start, options, known)
        origin = begin(backbone, self.setup, self.options)
        self.learner = SoftPromptLearner(backbone, [self.setup.prompt], [origin], self.options)

    def measure(self, steps: int) -> float:
        """The task's metric on dev, after so many steps."""
        task = self.setup.task
        with self.learner.evaluating() as [prompt]:
            dev = measure_dev(self.learner.backbone, task, prompt, task.dev[:DEV_ROWS])
        self.result = replace(self.result, steps=steps, dev=dev)
        return dev


def step_together(accumulator: Accumulator, trials: Sequence[Trial], step: int) -> None:
    """One step of every trial, on the same rows, in as few passes as memory takes."""
    vectors = [trial.learner.vectors()[0] for trial in trials]
    accumulator.loss(vectors, [t.setup.rows.batch(step, t.options.batch, t.options.seed) for t in trials])
    for trial, own in zip(trials, vectors, strict=True):
        for leaf in flat(own).values():
            assert leaf.grad is not None
            leaf.grad *= len(trials)  # the loss is the trials' mean; each of them has a loss of its own
        norm = trial.learner.backward_and_clip()
        if math.isfinite(norm):  # a rate that is too high ends a trial's progress, not the search
            trial.learner.optimizer_step(min(1.0, (step + 1) / WARM_UP))
