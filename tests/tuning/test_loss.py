"""The loss of a batch against the same sums by hand; a step whose memory runs out begins again in smaller pieces."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from foreword.backbone import Backbone, Example
from foreword.backbone.batch import Part
from foreword.errors import ForewordError
from foreword.tuning.learner import SoftPromptLearner
from foreword.tuning.loss import Accumulator, mean_loss
from foreword.tuning.methods import Start
from foreword.tuning.options import TuneOptions
from foreword.tuning.rows import encode_rows
from foreword.tuning.setup import insert_virtual_tokens
from tiny import backbone
from tuning.test_loop import START, task

Q = np.array([1])


def test_one_answer_is_the_mean_over_tokens() -> None:
    found = mean_loss(torch.tensor([-1.0, -2.0, -6.0]), [Example(Q, ((1, 2),)), Example(Q, ((3,),))], [0, 0])
    assert found.item() == 3.0


def test_choices_compete_by_likelihood_or_per_token_where_lengths_differ() -> None:
    examples = [Example(Q, ((1,), (2,))), Example(Q, ((1, 2), (3,)))]
    found = mean_loss(torch.tensor([-1.0, -2.0, -1.0, -3.0, -0.5]), examples, [1, 0])
    first = -(-2.0 - math.log(math.exp(-1.0) + math.exp(-2.0)))
    second = -(-2.0 - math.log(math.exp(-2.0) + math.exp(-0.5)))
    assert math.isclose(found.item(), (first + second) / 2, rel_tol=1e-6)


def learner_of(model: Backbone, start: torch.Tensor) -> SoftPromptLearner:
    return SoftPromptLearner(model, [START], [Start(start, None, 9)], TuneOptions(tokens=3))


class Short:
    """Memory for `tokens` row tokens; layers that are computed twice take half."""

    def __init__(self, model: Backbone, tokens: int) -> None:
        self.model, self.tokens, self.exact = model, tokens, model.log_probs_mixed
        self.passes: list[int] = []

    def __call__(self, parts: list[Part]) -> torch.Tensor:
        size = sum(len(example) for part in parts for example in part.examples) // (
            2 if self.model.architecture.checkpoints else 1
        )
        self.passes.append(size)
        if size > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.exact(parts)


@pytest.mark.parametrize(("room", "twice"), [(10_000, False), (40, False), (7, True)])
def test_the_step_goes_on_in_less_memory(monkeypatch: pytest.MonkeyPatch, room: int, twice: bool) -> None:
    model = backbone(dtype=torch.float64)
    rows = encode_rows(model, insert_virtual_tokens(START.answering(task().choices), 3, "p"), task(), "choices")
    results = []
    for short in (Short(model, 10_000), Short(model, room)):
        monkeypatch.setattr(model, "log_probs_mixed", short)
        learner = learner_of(model, torch.randn(3, 32, generator=torch.Generator()))
        accumulator = Accumulator(model, [rows])
        [vectors] = learner.vectors()
        results.append((accumulator.loss([vectors], [rows.batch(0, 8, 0)]), vectors.embeddings.grad))
    assert abs(results[0][0] - results[1][0]) < 1e-9
    assert torch.allclose(results[0][1], results[1][1])
    assert bool(accumulator.notes) == (room < 10_000)
    assert model.architecture.checkpoints == twice


def test_a_row_that_memory_cannot_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone()
    rows = encode_rows(model, insert_virtual_tokens(START.answering(task().choices), 3, "p"), task(), "choices")
    monkeypatch.setattr(model, "log_probs_mixed", Short(model, 1))
    learner = learner_of(model, torch.ones(3, 32))
    with pytest.raises(ForewordError, match=r"memory does not hold one row of \d+ tokens; shorten the rows"):
        Accumulator(model, [rows]).loss(learner.vectors(), [rows.batch(0, 8, 0)])


@pytest.mark.parametrize(
    "said",
    ["DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when ..."],
)
def test_want_of_memory_is_known_by_all_its_names(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    model = backbone()
    rows = encode_rows(model, insert_virtual_tokens(START.answering(task().choices), 3, "p"), task(), "choices")
    model.score(START.answering(task().choices), [row.inputs for row in task().dev])
    assert model._prefix_caches
    errors, exact = [RuntimeError(said)], model.log_probs_mixed

    def once(parts: list[Part]) -> torch.Tensor:
        if errors:
            raise errors.pop()
        return exact(parts)

    monkeypatch.setattr(model, "log_probs_mixed", once)
    learner = learner_of(model, torch.ones(3, 32))
    accumulator = Accumulator(model, [rows])
    accumulator.loss(learner.vectors(), [rows.batch(0, 8, 0)])
    assert not model._prefix_caches, "computed prefixes still take memory"
    assert accumulator.notes[0].startswith("memory ran out: rows now go through in pieces")


def test_other_errors_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone()
    rows = encode_rows(model, insert_virtual_tokens(START.answering(task().choices), 3, "p"), task(), "choices")

    def broken(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(model, "log_probs_mixed", broken)
    learner = learner_of(model, torch.ones(3, 32))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Accumulator(model, [rows]).loss(learner.vectors(), [rows.batch(0, 8, 0)])
