"""What a run's folder tells of where its prompts began."""

from pathlib import Path

import numpy as np
import pytest

from foreword.backbone import Vectors
from foreword.errors import ForewordError
from foreword.prompts import Prompt, SoftTokens
from foreword.tasks import Row, Task
from foreword.tuning import checkpoint, tune, tune_many
from foreword.tuning.record import start_of
from foreword.tuning.start import start_vectors
from tiny import backbone

PLAIN = Prompt("plain", "Review: {{ text }}\nSentiment:")


def task(name: str) -> Task:
    rows = tuple(Row(f"{name}:{i}", {"text": f"quiet film {i}"}, ("bad", "good")[i % 2]) for i in range(12))
    return Task(name, ("text",), ("bad", "good"), "accuracy", 7, rows[:8], rows[8:], (), ())


def vectors(prompt: Prompt) -> SoftTokens:
    assert prompt.soft is not None
    return prompt.soft


def test_a_run_tells_where_its_own_prompts_began(tmp_path: Path) -> None:
    model, settings = backbone(), {"steps": 2, "tokens": 3, "learning_rate": 0.1}
    one = tune(model, task("one"), PLAIN, folder=tmp_path / "one", **settings).prompt
    found = start_of(tmp_path / "one", vectors(one))
    assert found is not None
    expected = start_vectors(model, one, "text", PLAIN, None, 0)
    assert np.array_equal(found["embeddings"], expected.numpy())
    assert not np.allclose(found["embeddings"], vectors(one).embeddings)

    starts = [PLAIN, Prompt("other", "Opinion of {{ text }} is")]
    settings |= {"method": "multitask"}
    both = tune_many(model, [task("a"), task("b")], starts, folder=tmp_path / "both", **settings)
    for run, start in zip(both, starts, strict=True):
        began = start_of(tmp_path / "both", vectors(run.prompt))
        assert began is not None
        expected = start_vectors(model, run.prompt, "text", start, None, 0)
        assert np.allclose(began["embeddings"], expected.numpy(), atol=1e-5)
    assert start_of(tmp_path / "both", vectors(one)) is None, "another run made it"


def test_a_folder_that_cannot_tell_says_why(tmp_path: Path) -> None:
    soft = vectors(tune(backbone(), task("one"), PLAIN, folder=tmp_path / "run", steps=1, tokens=2).prompt)
    with pytest.raises(ForewordError, match="holds no run: give the --out of 'foreword tune'"):
        start_of(tmp_path, soft)
    path = tmp_path / "run" / "checkpoint.safetensors"
    state = checkpoint.read(path)
    checkpoint.write(path, checkpoint.State(**vars(state) | {"start": {}}))  # as older versions wrote it
    with pytest.raises(ForewordError, match="older foreword, which did not keep its start"):
        start_of(tmp_path / "run", soft)
    assert Vectors(**state.start).count == 2
