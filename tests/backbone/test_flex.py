"""FlexAttention: when it is used, and that a GPU's numbers are a CPU's. What it computes is in test_log_probs.py."""

import numpy as np
import pytest
import torch

import tiny
from foreword.backbone import Backbone, Example, Vectors, flex
from foreword.errors import ForewordWarning
from traced import traced

DRAW = np.random.default_rng(0)
ROWS = [Example(DRAW.integers(10, 200, n), ((5, 6), (7,))) for n in (300, 900, 640)]
SHARED_PREFIX = np.array([-1, -2, -3, 5])


def long_reader(monkeypatch: pytest.MonkeyPatch, family: str = "qwen", **other: int) -> Backbone:
    """A tiny model whose context and heads are large enough; odd numbers of heads, as the default backbone has."""
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16, "hidden_size": 36}
    for name, value in {**heads, "max_position_embeddings": 2048, **other}.items():
        monkeypatch.setitem(tiny.SMALL, name, value)
    return tiny.backbone(family)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On a CPU, as if it were a GPU; grows with every layer that is read in one kernel."""
    made: list[int] = []
    attend = flex.attend

    def counted(*given: object) -> torch.Tensor:
        made.append(1)
        return attend(*given)  # type: ignore[arg-type]

    traced(monkeypatch)
    monkeypatch.setattr(flex, "attend", counted)
    monkeypatch.setattr(flex, "possible", lambda _, head: head >= flex.SMALLEST_HEAD)
    return made


def test_long_rows_are_read_in_one_kernel_that_was_asked_first(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = long_reader(monkeypatch)
    start = torch.randn(3, model.dimension)
    found = []
    for long in (10**6, flex.LONG):
        monkeypatch.setattr(flex, "LONG", long)
        virtual = start.clone().requires_grad_()
        loss = model.log_probs(ROWS, SHARED_PREFIX, Vectors(virtual)).mean()
        loss.backward()
        assert virtual.grad is not None
        found.append((loss.item(), virtual.grad))
        assert len(calls) == (0 if long == 10**6 else 3 * 3)  # the layers of two probes, and these
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert (found[1][1] - found[0][1]).norm() < 1e-4 * found[0][1].norm()
    model.log_probs([Example(np.arange(5, 40), ((5,),))], SHARED_PREFIX, Vectors(start))
    assert len(calls) == 9, "short rows are not"


def test_wrong_numbers_are_found_and_told_once(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = long_reader(monkeypatch)
    counted = flex.attend
    monkeypatch.setattr(flex, "attend", lambda *given: counted(*given) * 1.02)
    given = ROWS, SHARED_PREFIX, Vectors(torch.randn(3, model.dimension))
    with pytest.warns(ForewordWarning, match="its numbers are not those of plain attention"):
        model.log_probs(*given)
    model.log_probs(*given)  # warnings are errors here
    assert len(calls) == 6


@pytest.mark.usefixtures("calls")
def test_what_cannot_be_compiled_is_told_and_short_memory_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = long_reader(monkeypatch)
    errors = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("no C compiler\nand a long story")]

    def broken(*_: object, **__: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(flex, "compiled", lambda _: broken)
    given = ROWS, SHARED_PREFIX, Vectors(torch.randn(3, model.dimension))
    with pytest.raises(torch.OutOfMemoryError):
        model.log_probs(*given)
    with pytest.warns(ForewordWarning, match=r"is not used \(no C compiler\); long rows are padded"):
        model.log_probs(*given)


def test_small_heads_and_short_contexts_are_not_asked(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ({"head_dim": 8}, {"max_position_embeddings": 512}):
        model = long_reader(monkeypatch, **other)
        model.log_probs(
            [Example(np.resize(np.arange(5, 40), 300), ((5,),))], SHARED_PREFIX, Vectors(torch.randn(3, 36))
        )
    assert calls == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["llama", "qwen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_numbers_of_a_cpu(family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long rows behind one shared prefix, with gradients and without, layers computed once and twice."""
    start = torch.randn(3, 36)
    found = []
    for device, twice in (("cpu", False), ("cuda", False), ("cuda", True)):
        model = long_reader(monkeypatch, family)
        model.model.to(device, torch.float32 if device == "cpu" else dtype)
        assert not twice or model.architecture.checkpoint_activations()
        virtual = start.to(device).requires_grad_()
        loss = model.log_probs(ROWS, SHARED_PREFIX, Vectors(virtual)).mean()
        loss.backward()
        with torch.no_grad():
            read = model.log_probs(ROWS, model.prefill(SHARED_PREFIX, Vectors(virtual)), Vectors(virtual)).mean()
        assert virtual.grad is not None
        found.append((loss.item(), read.item(), virtual.grad.cpu()))
        assert vars(model.architecture).get("fuses", False) == (device == "cuda")
    bound = 1e-3 if dtype == torch.float32 else 0.1
    for loss, read, gradient in found[1:]:
        assert (loss, read) == pytest.approx(found[0][:2], rel=bound)
        assert (gradient - found[0][2]).norm() < bound * found[0][2].norm()
