"""A small search by successive halving (Jamieson and Talwalkar 2016): many prompts learned in one batch.

Every trial is a prompt with settings of its own. All of them read the same rows in the same forward pass, each behind
its own shared prefix; after every rung the worse ones on dev drop out. What comes out is settings: the run itself
starts anew.
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning.accumulate import Accumulator
from foreword.tuning.learner import Learner
from foreword.tuning.methods import METHODS, flat
from foreword.tuning.options import TuneOptions
from foreword.tuning.rows import TrainingRows, encode_rows
from foreword.tuning.served import dev_score, served
from foreword.tuning.start import begin, soften

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
class Trial:
    """Settings, and how they did on dev as far as they came."""

    options: TuneOptions
    steps: int = 0
    dev: float | None = None

    def __str__(self) -> str:
        o = self.options
        return f"{o.method}, {o.tokens} tokens, from {o.init}, lr {o.rate:.2g}"


OnRung = Callable[[int, Sequence[Trial], int], None]
"""Called with (steps done, trials from best to worst, how many of them go on)."""
OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


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
    backbone: Backbone, task: Task, start: Prompt, settings: Sequence[TuneOptions],
    on_rung: OnRung | None = None, on_step: OnStep | None = None,
) -> list[Trial]:  # fmt: skip
    """Try `settings` and return all trials, the best first: those that came further stand before those that did not."""
    if not task.dev:
        raise ForewordError(
            f"task {task.name!r} has no dev rows to choose settings on; give it some: split: {{dev: 200}}"
        )
    racers = [
        _Racer(backbone, task, start, options, rows) for options, rows in _encoded(backbone, task, start, settings)
    ]
    out: list[Trial] = []
    done = 0
    rungs = sorted({min(rung, settings[0].steps) for rung in RUNGS})
    for until in rungs:
        accumulator = Accumulator(backbone, [racer.rows for racer in racers])
        for step in range(done, until):
            _step(accumulator, racers, step)
            if on_step:
                on_step(step + 1, rungs[-1])
        done = until
        ranked = sorted(racers, key=lambda racer: -racer.measure(task, done))
        going = 1 if until == rungs[-1] else max(1, round(len(ranked) * KEEP))
        if on_rung:
            on_rung(done, [racer.trial for racer in ranked], going)
        out = [racer.trial for racer in ranked[going:]] + out
        racers = ranked[:going]
        if len(racers) == 1:
            break
    return [racers[0].trial, *out]


class _Racer:
    """A trial on its way."""

    def __init__(
        self, backbone: Backbone, task: Task, start: Prompt, options: TuneOptions, encoded: tuple[Prompt, TrainingRows]
    ) -> None:
        self.prompt, self.rows = encoded
        self.backbone, self.trial = backbone, Trial(options)
        learns = METHODS[options.method].learns
        origin = begin(backbone, self.prompt, learns, options, start, task.train, self.rows.longest)
        self.learner = Learner(options, [origin], backbone.device)

    def measure(self, task: Task, steps: int) -> float:
        """The task's metric on dev."""
        prompt = served(self.backbone, self.prompt, self.learner.average, self.trial.options.method, 0)
        dev = dev_score(self.backbone, task, prompt, task.dev[:DEV_ROWS])
        self.trial = replace(self.trial, steps=steps, dev=dev)
        return dev


def _encoded(
    backbone: Backbone, task: Task, start: Prompt, settings: Sequence[TuneOptions]
) -> list[tuple[TuneOptions, tuple[Prompt, TrainingRows]]]:
    """Settings with their prompt and rows, encoded once for all that share a template."""
    plain = start.answering(task.choices).without_prior()
    known: dict[tuple[str, str], tuple[Prompt, TrainingRows]] = {}
    found = []
    for options in settings:
        prompt = soften(plain, options.tokens, "trial", METHODS[options.method].learns)
        key = (prompt.body, options.objective)
        if key not in known:
            known[key] = (prompt, encode_rows(backbone, prompt, task, options.objective))
        found.append((options, known[key]))
    return found


def _step(accumulator: Accumulator, racers: Sequence[_Racer], step: int) -> None:
    """One step of every trial, on the same rows, in as few passes as memory takes."""
    vectors = [racer.learner.vectors()[0] for racer in racers]
    given = [r.rows.batch(step, r.trial.options.batch, r.trial.options.seed) for r in racers]
    accumulator.loss(vectors, given)
    for racer, own in zip(racers, vectors, strict=True):
        for leaf in flat(own).values():
            assert leaf.grad is not None
            leaf.grad *= len(racers)  # the loss is the trials' mean; each of them has a loss of its own
        norm = racer.learner.norm()
        if math.isfinite(norm):  # a rate that is too high ends a trial's progress, not the search
            racer.learner.move(min(1.0, (step + 1) / WARM_UP))
