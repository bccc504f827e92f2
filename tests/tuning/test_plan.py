"""A sweep's trials, learned in one batch, against the same trials learned alone; who drops out; what is tried."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foreword.budgets import parse_budget
from foreword.errors import ForewordError
from foreword.prompts import SoftTokens
from foreword.tuning import TuneOptions, loss
from foreword.tuning.loss import Accumulator
from foreword.tuning.plan import Trial, fit_budget, grid, halving, sweep
from foreword.tuning.plan.halving import step_together
from foreword.tuning.setup import Encoded
from heard import Heard
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
            known: Encoded = {}
            trials = [Trial(model, task(), START, options, known) for options in settings]
            accumulator = Accumulator(model, [trial.setup.rows for trial in trials])
            for step in range(4):
                step_together(accumulator, trials, step)
            found += [dict(trial.learner.ema) for trial in trials]
        return found

    together, alone = learned([SETTINGS]), learned([[options] for options in SETTINGS])
    monkeypatch.setattr(loss, "STEP_TOKENS", 100)
    in_pieces = learned([SETTINGS])
    for other in (alone, in_pieces):
        for a, b in zip(together, other, strict=True):
            assert all(torch.allclose(a[name], b[name], rtol=1e-4, atol=1e-6) for name in b)


def test_the_worse_trials_drop_out(monkeypatch: pytest.MonkeyPatch) -> None:
    worth = {8: 0.9, 16: 0.5, 24: 0.7, 4: 0.1}
    monkeypatch.setattr(halving, "measure_dev", lambda _m, _t, prompt, _r: worth[prompt.virtual_tokens])
    monkeypatch.setattr(halving, "RUNGS", (2, 3, 5))
    told = Heard()
    settings = [TuneOptions(tokens=P, batch=4) for P in worth]
    found = sweep(backbone(), task(), START, settings, told)
    assert [trial.options.tokens for trial in found] == [8, 24, 16, 4]
    assert [re.findall(r"(\d+) steps .* (goes on|drops out) .* (\d+) tokens", text) for text in told.said] == [
        [("2", "goes on", "8")], [("2", "drops out", "24")], [("2", "drops out", "16")], [("2", "drops out", "4")],
    ]  # fmt: skip
    assert told.stages == [("sweep", 1, 5), ("sweep", 2, 5)]
    assert found[0].steps == 2
    short = sweep(backbone(), task(), START, [replace(options, steps=1) for options in settings])
    assert {trial.steps for trial in short} == {1}, "no longer than the run that is to come"
    with pytest.raises(ForewordError, match="no dev rows to choose settings on"):
        sweep(backbone(), task(dev=()), START, settings)


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
        assert [Trial(model, task(), start, options) for options in made]


def test_a_budget_becomes_steps_and_dev_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    written = [parse_budget(text, "rows") for text in ("90s", "1.5h", "4000 rows")]
    assert written == [(90, None), (5400, None), (None, 4000)]
    for text in ("5", "0m", "m", "-3s", "5m30s", "9" * 400 + "rows"):
        with pytest.raises(ForewordError, match="write it as 90s"):
            parse_budget(text, "rows")
    options = TuneOptions()
    planned = fit_budget(backbone(), task(), START, options, "400rows")
    assert (planned.batch, planned.steps, planned.eval_every, planned.dev_rows) == (4, 100, 12, 10)
    assert fit_budget(backbone(), task(), START, options, "1300rows").batch == 8, "where steps are many, they read more"
    few = replace(task(), train=task().train[:6])
    assert fit_budget(backbone(), few, START, options, "1300rows").batch == 4, "no step reads more rows than there are"
    assert fit_budget(backbone(), task(), START, replace(options, batch=7), "400rows", ["batch"]).batch == 7

    timed: list[int] = []

    def takes(step: float, row: float) -> None:
        """A step of four rows, and a dev row."""
        timed.clear()
        watch = SimpleNamespace(step=lambda batch: timed.append(batch) or step * batch / 4, dev_row=lambda: row)
        monkeypatch.setattr("foreword.tuning.plan.budget._Stopwatch", lambda *_: watch)

    takes(0.1, 0.0)
    blind = fit_budget(backbone(), task(dev=()), START, options, "1h")
    assert (blind.batch, blind.steps, blind.eval_every) == (16, 9_000, 1_125), "saved now and then all the same"
    monkeypatch.undo()
    short, long = (fit_budget(backbone(), task(), START, options, budget) for budget in ("2s", "20s"))
    assert 40 <= short.steps * short.batch < long.steps * long.batch
    assert short.method == options.method
    takes(0.4, 0.3)  # 77 choices make a dev row dear
    many = replace(task(), dev=task().dev * 20)
    costly = fit_budget(backbone(), many, START, options, "150s")
    assert (costly.batch, costly.steps, costly.eval_every, costly.dev_rows) == (8, 150, 150, 50), "a fifth of the time"
    takes(1.0, 1.0)  # and long texts still more
    costlier = fit_budget(backbone(), many, START, options, "100s")
    assert (costlier.steps, costlier.eval_every, costlier.dev_rows) == (80, 80, 10)
    assert timed == [4], "larger steps cannot leave enough of them, and timing them takes long"
    with pytest.raises(ForewordError, match=r"holds 2 steps of 4 rows.*give '40rows' or more"):
        fit_budget(backbone(), task(), START, options, "8rows")
    for step, row in ((0.1, 0.3), (13.0, 1.3), (40.0, 0.01)):
        takes(step, row)
        with pytest.raises(ForewordError, match="or a smaller batch") as told:
            fit_budget(backbone(), many, START, options, "1s")
        enough = str(told.value).split("give '")[1].split("'")[0]
        assert fit_budget(backbone(), many, START, options, enough).steps >= 10
