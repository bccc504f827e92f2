"""A sweep's trials, learned in one batch, against the same trials learned alone; who drops out; what is tried."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foreword.budgets import parse_budget
from foreword.errors import ForewordError
from foreword.prompts import SoftTokens
from foreword.tuning import TuneOptions, accumulate, sweep
from foreword.tuning.accumulate import Accumulator
from foreword.tuning.budget import plan
from foreword.tuning.sweep import _encoded, _Racer, _step, grid
from tiny import backbone
from tuning.test_loop import START, task

SETTINGS = [
    TuneOptions(tokens=3, learning_rate=0.05, batch=6),
    TuneOptions(tokens=5, init="vocabulary", batch=6),
    TuneOptions(method="prefix-tuning", tokens=4, batch=6),
    TuneOptions(method="dept", tokens=2, batch=6),
    TuneOptions(method="p-tuning", tokens=3, batch=6),
]


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_learning_side_by_side_is_learning_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone(family, torch.float64)

    def learned(groups: list[list[TuneOptions]]) -> list[dict[str, torch.Tensor]]:
        found = []
        for settings in groups:
            racers = [_Racer(model, task(), START, *pair) for pair in _encoded(model, task(), START, settings)]
            accumulator = Accumulator(model, [racer.rows for racer in racers])
            for step in range(4):
                _step(accumulator, racers, step)
            found += [dict(racer.learner.average) for racer in racers]
        return found

    together, alone = learned([SETTINGS]), learned([[options] for options in SETTINGS])
    monkeypatch.setattr(accumulate, "STEP_TOKENS", 100)
    in_pieces = learned([SETTINGS])
    for other in (alone, in_pieces):
        for a, b in zip(together, other, strict=True):
            assert all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-6) for name in b)


def test_the_worse_trials_drop_out(monkeypatch: pytest.MonkeyPatch) -> None:
    worth = {8: 0.9, 16: 0.5, 24: 0.7, 4: 0.1}
    monkeypatch.setattr(sweep, "dev_score", lambda _m, _t, prompt, _r: worth[prompt.virtual_tokens])
    monkeypatch.setattr(sweep, "RUNGS", (2, 3, 5))
    seen = []
    settings = [TuneOptions(tokens=P, batch=4) for P in worth]
    found = sweep.sweep(backbone(), task(), START, settings, lambda *rung: seen.append(rung))
    assert [trial.options.tokens for trial in found] == [8, 24, 16, 4]
    assert [(steps, [t.options.tokens for t in trials], going) for steps, trials, going in seen] == [
        (2, [8, 24, 16, 4], 1),
    ]  # fmt: skip
    assert found[0].steps == 2
    short = sweep.sweep(backbone(), task(), START, [replace(options, steps=1) for options in settings])
    assert {trial.steps for trial in short} == {1}, "no longer than the run that is to come"
    with pytest.raises(ForewordError, match="no dev rows to choose settings on"):
        sweep.sweep(backbone(), task(dev=()), START, settings)


def test_a_grid_keeps_what_was_given_and_varies_the_rest() -> None:
    made = grid(TuneOptions(tokens=10, seed=3), ["tokens", "seed"], 9, START)
    assert len(made) == len(set(made)) == 9
    assert made[0] == replace(TuneOptions(tokens=10, seed=3), init="text", learning_rate=TuneOptions().rate)
    assert {o.tokens for o in made} == {10}
    assert {o.method for o in made} == {"prompt-tuning", "prefix-tuning"}
    assert len({o.rate for o in made}) > 2
    assert len(grid(TuneOptions(), ["method", "tokens", "learning_rate", "init"], 9, START)) == 1


def test_a_soft_start_decides_size_and_beginning() -> None:
    inside = START.replace(body="Review: {{ text }}{{ virtual(5) }} Sentiment:")
    made = grid(TuneOptions(), [], 9, inside)
    assert {(o.tokens, o.method) for o in made} == {(5, "prompt-tuning")}
    for kind, methods in (("embeddings", {"prompt-tuning", "prefix-tuning"}), ("keys", {"prefix-tuning"})):
        model = backbone()
        L, H, size = model.cache_shape
        cache = np.ones((L, H, 4, size), np.float32)
        tensors = {"keys": cache, "values": cache} if kind == "keys" else {kind: np.ones((4, 32), np.float32)}
        soft = SoftTokens(tensors, model.name, model.fingerprint, "m", "r", 1)
        start = START.replace(body="{{ virtual(4) }}" + START.body, soft=soft)
        made = grid(TuneOptions(batch=4), [], 9, start)
        assert {o.method for o in made} == methods
        assert {(o.tokens, o.init) for o in made} == {(4, "prompt")}
        assert {o.rate for o in grid(TuneOptions(learning_rate=0.1), ["learning_rate"], 9, start)} == {0.1}
        assert [_Racer(model, task(), start, *pair) for pair in _encoded(model, task(), start, made)]


def test_a_budget_becomes_steps_and_dev_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    written = [parse_budget(text, "rows") for text in ("90s", "1.5h", "4000 rows")]
    assert written == [(90, None), (5400, None), (None, 4000)]
    for text in ("5", "0m", "m", "-3s", "5m30s", "9" * 400 + "rows"):
        with pytest.raises(ForewordError, match="write it as 90s"):
            parse_budget(text, "rows")
    options = TuneOptions()
    planned = plan(backbone(), task(), START, options, "400rows")
    assert (planned.batch, planned.steps, planned.eval_every, planned.dev_rows) == (4, 100, 12, 10)
    assert plan(backbone(), task(), START, options, "1300rows").batch == 8, "where steps are many, they read more"
    few = replace(task(), train=task().train[:6])
    assert plan(backbone(), few, START, options, "1300rows").batch == 4, "no step reads more rows than there are"
    assert plan(backbone(), task(), START, replace(options, batch=7), "400rows", ["batch"]).batch == 7

    timed: list[int] = []

    def takes(step: float, row: float) -> None:
        """A step of four rows, and a dev row."""
        timed.clear()
        watch = SimpleNamespace(step=lambda batch: timed.append(batch) or step * batch / 4, dev_row=lambda: row)
        monkeypatch.setattr("foreword.tuning.budget._Stopwatch", lambda *_: watch)

    takes(0.1, 0.0)
    blind = plan(backbone(), task(dev=()), START, options, "1h")
    assert (blind.batch, blind.steps, blind.eval_every) == (16, 9_000, 1_125), "saved now and then all the same"
    monkeypatch.undo()
    short, long = (plan(backbone(), task(), START, options, budget) for budget in ("2s", "20s"))
    assert 40 <= short.steps * short.batch < long.steps * long.batch
    assert short.method == options.method
    takes(0.4, 0.3)  # 77 choices make a dev row dear
    many = replace(task(), dev=task().dev * 20)
    costly = plan(backbone(), many, START, options, "150s")
    assert (costly.batch, costly.steps, costly.eval_every, costly.dev_rows) == (8, 150, 150, 50), "a fifth of the time"
    takes(1.0, 1.0)  # and long texts still more
    costlier = plan(backbone(), many, START, options, "100s")
    assert (costlier.steps, costlier.eval_every, costlier.dev_rows) == (80, 80, 10)
    assert timed == [4], "larger steps cannot leave enough of them, and timing them takes long"
    with pytest.raises(ForewordError, match=r"holds 2 steps of 4 rows.*give '40rows' or more"):
        plan(backbone(), task(), START, options, "8rows")
    for step, row in ((0.1, 0.3), (13.0, 1.3), (40.0, 0.01)):
        takes(step, row)
        with pytest.raises(ForewordError, match="or a smaller batch") as told:
            plan(backbone(), many, START, options, "1s")
        enough = str(told.value).split("give '")[1].split("'")[0]
        assert plan(backbone(), many, START, options, enough).steps >= 10
