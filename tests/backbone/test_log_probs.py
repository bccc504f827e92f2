"""Loss and gradient behind a shared front, against one row at a time through the model's plain forward."""

import random

import numpy as np
import pytest
import torch

from foreword.backbone import Backbone, Example
from foreword.backbone.encode import Ids
from tiny import FAMILIES, backbone

PLACES = {
    "front": ([-1, -2, -3, 5, 6], [7, 8]),
    "middle": ([5, 6], [7, -1, -2, -3, 8]),
    "two places": ([-1, -2, 5], [7, 8, -3, 9]),
    "no front": ([], [7, -1, -2, -3]),
}


def rows(rest: list[int], count: int = 6, seed: int = 0) -> list[Example]:
    """Rows of very different lengths that all hold `rest`, with one to three answers of one to four tokens."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 200) for _ in range(rng.randint(low, high)))

    return [
        Example(
            np.array([*tokens(0, 12), *rest], dtype=np.int64), tuple(tokens(1, 4) for _ in range(rng.randint(1, 3)))
        )
        for _ in range(count)
    ]


def naive(model: Backbone, examples: list[Example], front: Ids, virtual: torch.Tensor) -> torch.Tensor:
    """Every answer of every row alone, unpadded, uncached, through the model as transformers runs it."""
    found = []
    plain = model.model
    for example in examples:
        for answer in example.answers:
            ids = torch.tensor([*front, *example.question, *answer])
            embedded = plain.get_input_embeddings()(ids.clamp_min(0))
            embedded = torch.stack([virtual[-1 - i] if i < 0 else e for i, e in zip(ids, embedded, strict=True)])
            logits = plain(inputs_embeds=embedded[None].to(plain.dtype), use_cache=False).logits[0]
            start = len(ids) - len(answer)
            for place in range(start, len(ids)):
                found.append(torch.log_softmax(logits[place - 1], -1)[ids[place]])
    return torch.stack(found)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Backbone:
    return backbone(request.param, torch.float64)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_one_row_at_a_time(model: Backbone, where: str, dtype: torch.dtype) -> None:
    model.model.to(dtype)
    front, rest = PLACES[where]
    ids, examples = np.array(front, dtype=np.int64), rows(rest)
    start = torch.randn(3, model.dimension, dtype=dtype)
    results = []
    for function in (model.log_probs, lambda *a: naive(model, *a)):
        virtual = start.clone().requires_grad_()
        loss = -function(examples, ids, virtual).mean()
        loss.backward()
        results.append((loss.detach(), virtual.grad))
    (loss, gradient), (expected, expected_gradient) = results
    assert relative(loss, expected) < (1e-5 if dtype == torch.float32 else 1e-8)
    assert relative(gradient, expected_gradient) < (1e-4 if dtype == torch.float32 else 1e-6)
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())


def test_a_cached_front_changes_nothing(model: Backbone) -> None:
    ids, examples = np.array([-1, -2, 5, 6, 7, 8, 9, 10, 11], dtype=np.int64), rows([12, 13])
    virtual = torch.randn(2, model.dimension, dtype=torch.float64)
    with torch.no_grad():
        inline = model.log_probs(examples, ids, virtual)
        cached = model.log_probs(examples, model.prefill(ids, virtual), virtual)
    assert relative(cached, inline) < 1e-8


def test_order_and_padding_change_nothing(model: Backbone) -> None:
    ids, examples = np.array([-1, 5], dtype=np.int64), rows([12], count=8)
    virtual = torch.randn(1, model.dimension, dtype=torch.float64)
    alone = [model.log_probs([example], ids, virtual) for example in examples]
    order = random.Random(1).sample(range(8), 8)
    together = model.log_probs([examples[i] for i in order], ids, virtual)
    assert relative(together, torch.cat([alone[i] for i in order])) < 1e-8


def test_only_families_with_attention_of_their_own_are_padded(model: Backbone) -> None:
    assert model.packs == (model.name != "tiny-bloom")


def test_plain_calls_of_the_wrapped_model_are_untouched() -> None:
    """Generation, and whoever uses `backbone.model` directly, get transformers' own numbers."""
    for family in FAMILIES:
        ours = backbone(family).model
        theirs = type(ours)(ours.config.__class__.from_dict({**ours.config.to_dict(), "attn_implementation": "eager"}))
        theirs.load_state_dict(ours.state_dict())
        theirs.eval().set_attn_implementation("eager")
        ids = torch.randint(10, 200, (2, 12))
        mask = torch.ones_like(ids)
        mask[0, :4] = 0
        a, b = (m(input_ids=ids, attention_mask=mask).logits[:, 4:] for m in (ours, theirs))
        assert relative(a, b) < 1e-5, family
