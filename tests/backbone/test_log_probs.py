"""Loss and gradient behind a shared prefix, against one row at a time through the model's plain forward."""

import itertools
import random

import numpy as np
import pytest
import torch
import transformers as hf

from foreword.backbone import Backbone, Example, Vectors, attention, flex
from foreword.backbone.encode import Ids
from tiny import FAMILIES, backbone
from traced import traced

PLACES = {
    "shared prefix": ([-1, -2, -3, 5, 6], [7, 8]),
    "middle": ([5, 6], [7, -1, -2, -3, 8]),
    "two places": ([-1, -2, 5], [7, 8, -3, 9]),
    "no shared prefix": ([], [7, -1, -2, -3]),
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


def naive(model: Backbone, examples: list[Example], shared_prefix: Ids, vectors: Vectors) -> torch.Tensor:
    """Every answer of every row alone, unpadded, through the model as transformers runs it.

    Learned keys and values go in as a cache, as PEFT hands them over; offsets are added token by token.
    """
    found = []
    plain = model.model
    for example in examples:
        for answer in example.answers:
            ids = torch.tensor([*shared_prefix, *example.question, *answer])[vectors.prefix :]
            embedded = plain.get_input_embeddings()(ids.clamp_min(0))
            embedded = torch.stack(
                [vectors.embeddings[-1 - i] if i < 0 else e for i, e in zip(ids, embedded, strict=True)]
            )
            if vectors.offsets is not None:
                asked = ids[: -len(answer)]  # what is written has no offsets
                text = [i for i, token in enumerate(asked) if token >= 0][: len(vectors.offsets)]
                embedded = torch.stack(
                    [e + vectors.offsets[text.index(i)] if i in text else e for i, e in enumerate(embedded)]
                )
            cache = hf.DynamicCache()
            for layer in range(len(vectors.keys) if vectors.keys is not None else 0):
                cache.update(vectors.keys[layer][None], vectors.values[layer][None], layer)
            arguments = {
                model.embedder.takes_cache: cache if vectors.prefix else None,
                "use_cache": bool(vectors.prefix),
            }
            logits = plain(inputs_embeds=embedded[None].to(plain.dtype), **arguments).logits[0]
            start = len(ids) - len(answer)
            for place in range(start, len(ids)):
                found.append(torch.log_softmax(logits[place - 1], -1)[ids[place]])
    return torch.stack(found)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


WAYS = [*itertools.product(["short", "long"], FAMILIES), ("fused", "llama"), ("fused", "qwen")]


@pytest.fixture(params=WAYS, ids="-".join)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """Reads rows of a few tokens, or the same as long rows are read on a CPU, or on a GPU."""
    way, family = request.param
    model = backbone(family, torch.float64)
    if way == "long":
        monkeypatch.setattr(attention, "LONG", 1)
    if way == "fused":
        traced(monkeypatch)
        monkeypatch.setattr(flex, "LONG", 1)
        vars(model.architecture)["fuses"] = True
    return model


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_one_row_at_a_time(model: Backbone, where: str, dtype: torch.dtype) -> None:
    model.model.to(dtype)
    prefix, rest = PLACES[where]
    ids, examples = np.array(prefix, dtype=np.int64), rows(rest)
    start = torch.randn(3, model.dimension, dtype=dtype)
    results = []
    for function in (model.log_probs, lambda *a: naive(model, *a)):
        virtual = start.clone().requires_grad_()
        loss = -function(examples, ids, Vectors(virtual)).mean()
        loss.backward()
        results.append((loss.detach(), virtual.grad))
    (loss, gradient), (expected, expected_gradient) = results
    assert relative(loss, expected) < (1e-5 if dtype == torch.float32 else 1e-8)
    assert relative(gradient, expected_gradient) < (1e-4 if dtype == torch.float32 else 1e-6)
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())


def learned(model: Backbone, kind: str, dtype: torch.dtype, P: int = 3) -> Vectors:
    """Vectors of every kind, leaves of the graph."""
    torch.manual_seed(1)
    L, H, size = model.cache_shape
    shapes = {"embeddings": (P, model.dimension)}
    if kind == "prefix":
        shapes = {"keys": (L, H, P, size), "values": (L, H, P, size)}
    if kind == "offsets":
        shapes["offsets"] = (5, model.dimension)
    return Vectors(**{name: torch.randn(*shape, dtype=dtype, requires_grad=True) for name, shape in shapes.items()})


def test_layers_computed_twice_give_the_same_numbers(model: Backbone) -> None:
    """Loss and gradient are those of layers whose intermediate results are kept; the model is left as it was."""
    results: list[torch.Tensor] = []
    for twice in (False, True):
        assert not twice or model.architecture.checkpoint_activations() == model.packs
        for prefix, kind in (([-1, -2, 5], "embeddings"), ([-1, -2, 6, 7], "prefix")):
            vectors = learned(model, kind, torch.float64, 2)
            loss = model.log_probs(rows([12]), np.array(prefix), vectors).mean()
            loss.backward()
            results += [loss.detach(), *(t.grad for t in vars(vectors).values() if t is not None)]
    half = len(results) // 2
    assert all(relative(a, b) < 1e-8 for a, b in zip(results[half:], results[:half], strict=True))
    assert all("forward" not in vars(module) for module in model.model.modules())


@pytest.mark.parametrize("text", [[], [5, 6]])
@pytest.mark.parametrize("kind", ["prefix", "offsets"])
def test_prefixes_and_offsets_equal_one_row_at_a_time(model: Backbone, kind: str, text: list[int]) -> None:
    """As above, for what stands in every layer's cache and for what is added to the words."""
    ids, examples = np.array([-1, -2, -3, *text], dtype=np.int64), rows([12])
    results = []
    for function in (model.log_probs, lambda *a: naive(model, *a)):
        vectors = learned(model, kind, torch.float64)
        loss = -function(examples, ids, vectors).mean()
        loss.backward()
        results.append((loss.detach(), [t.grad for t in vars(vectors).values() if t is not None]))
    (loss, gradients), (expected, expected_gradients) = results
    assert relative(loss, expected) < 1e-8
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, other) < 1e-6
        assert gradient.abs().sum() > 0
    with torch.no_grad():
        vectors = learned(model, kind, torch.float64)
        cached = model.log_probs(examples, model.prefill(ids, vectors), vectors)
        assert relative(cached, naive(model, examples, ids, vectors)) < 1e-8


def test_prompts_of_every_kind_share_a_batch(model: Backbone) -> None:
    """Prefixes of several lengths, one of them computed before, each kind of vectors, and unlike numbers of rows."""
    hard = np.array([5, 6, 7, 8, 9, 10, 11], dtype=np.int64)
    kinds = {
        kind: learned(model, kind, torch.float64, P) for kind, P in (("embeddings", 2), ("prefix", 3), ("offsets", 1))
    }
    prefixes = {"embeddings": [-1, 5, 6, -2], "prefix": [-1, -2, -3, 7], "offsets": [-1]}
    parts = [model.part(rows([12], 3, 1), model.prefill(hard)), model.part(rows([13], 1, 2), hard[:0])]
    parts += [model.part(rows([14], i + 2, i), np.array(prefixes[kind]), kinds[kind]) for i, kind in enumerate(kinds)]
    found = model.log_probs_mixed(parts)
    alone = torch.cat([naive(model, part.examples, part.shared_prefix, part.vectors) for part in parts])
    assert relative(found.detach(), alone.detach()) < 1e-8
    leaves = [t for vectors in kinds.values() for t in vars(vectors).values() if t is not None]
    for a, b in zip(*(torch.autograd.grad(x.mean(), leaves) for x in (found, alone)), strict=True):
        assert relative(a, b) < 1e-6


def test_a_cached_prefix_changes_nothing(model: Backbone) -> None:
    ids, examples = np.array([-1, -2, 5, 6, 7, 8, 9, 10, 11], dtype=np.int64), rows([12, 13])
    virtual = Vectors(torch.randn(2, model.dimension, dtype=torch.float64))
    with torch.no_grad():
        inline = model.log_probs(examples, ids, virtual)
        cached = model.log_probs(examples, model.prefill(ids, virtual), virtual)
    assert relative(cached, inline) < 1e-8


def test_order_and_padding_change_nothing(model: Backbone) -> None:
    ids, examples = np.array([-1, 5], dtype=np.int64), rows([12], count=8)
    virtual = Vectors(torch.randn(1, model.dimension, dtype=torch.float64))
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
