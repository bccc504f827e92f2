"""FlexAttention: when it is used, and that a GPU's numbers are a CPU's. What it computes is in test_log_probs.py."""

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention
from torch.utils.checkpoint import checkpoint

import tiny
from foreword.backbone import Example, Vectors, flex
from foreword.errors import ForewordWarning

PLAIN = torch.float32, torch.device("cpu"), 4, 2, 16, 16


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in test_log_probs.py: without a kernel of its own, and with a way back."""
    monkeypatch.setattr(flex, "compiled", lambda function: function)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    flex._works.cache_clear()


@pytest.mark.usefixtures("kernel")
@pytest.mark.filterwarnings("ignore:flex_attention called without", "ignore:The .grad attribute")
def test_it_is_asked_by_numbers_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = torch.ones(1, requires_grad=True)
    in_a_layer_computed_twice = checkpoint(lambda x: x * flex._works(*PLAIN), leaf, use_reentrant=False)
    in_a_layer_computed_twice.backward()
    assert leaf.grad == 1.0
    attend = flex.attend
    monkeypatch.setattr(flex, "attend", lambda *given: attend(*given) * 1.01)
    flex._works.cache_clear()
    with pytest.warns(ForewordWarning, match="its numbers are not those of plain attention"):
        assert not flex._works(*PLAIN)


def test_where_it_cannot_be_compiled_the_reason_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C compiler\nand a long story")

    monkeypatch.setattr(flex, "compiled", broken)
    flex._works.cache_clear()
    with pytest.warns(ForewordWarning, match=r"cannot be used here \(no C compiler\); long rows") as told:
        assert [flex._works(*PLAIN) for _ in range(3)] == [False] * 3
    assert len(told) == 1


def test_a_cpu_and_small_heads_are_not_asked() -> None:
    assert not flex.suits(*[torch.zeros(1, 2, 300, 32)] * 3)
    assert not flex.suits(*[torch.zeros(1, 2, 300, 8, device="meta")] * 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_a_gpu_gives_the_numbers_of_a_cpu(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long rows behind one front, loss and gradient, layers computed once and twice."""
    monkeypatch.setitem(tiny.SMALL, "head_dim", 16)
    monkeypatch.setitem(tiny.SMALL, "max_position_embeddings", 2048)
    draw = np.random.default_rng(0)
    rows = [Example(draw.integers(10, 200, n), ((5, 6), (7,))) for n in (300, 900, 640)]
    front, start = np.array([-1, -2, -3, 5]), torch.randn(3, 32)
    found = []
    for device, twice in (("cpu", False), ("cuda", False), ("cuda", True)):
        model = tiny.backbone(family)
        model.model.to(device)
        assert not twice or model.architecture.save_memory()
        virtual = start.to(device).requires_grad_()
        loss = model.log_probs(rows, front, Vectors(virtual)).mean()
        loss.backward()
        assert virtual.grad is not None
        found.append((loss.item(), virtual.grad.cpu()))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4)
        assert (gradient - found[0][1]).norm() < 1e-3 * found[0][1].norm()
    assert flex._works.cache_info().currsize > 0
