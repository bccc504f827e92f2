"""The engine's parts by themselves: the queue, the memory, the next token, attention in two halves."""

import contextlib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreword.backbone.answer import Sampling
from foreword.backbone.batch import PrefixCache
from foreword.serve.engines.local import linear
from foreword.serve.engines.local.attention import attention, merge_softmax
from foreword.serve.engines.local.kv_cache import KVMemory, KVShape, PrefixCaches
from foreword.serve.engines.local.sampler import Sampler, constrain
from foreword.serve.engines.queueing import FairQueue, QueueLimit
from foreword.serve.engines.seam import QueueFullError

SHAPE = KVShape(2, 3, 4, torch.float32, torch.device("cpu"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=30))
def test_keys_take_turns_and_each_is_served_in_order(items: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for item in items:
        queue.push(item[0], item)
    assert len(queue) == len(items)
    served = []
    while len(queue):
        first = queue.first()
        served.append(queue.pop())
        assert served[-1] == first
    for key in "abc":
        assert [item for item in served if item[0] == key] == [item for item in items if item[0] == key]
    counts, waiting = Counter[str](), Counter(key for key, _ in items)
    for key, _ in served:
        counts[key] += 1
        assert all(counts[key] - counts[other] <= 1 for other in "abc" if counts[other] < waiting[other])


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=60))
def test_memory_stays_within_its_bytes_and_gives_all_of_it_back(moves: list[tuple[bool, int]]) -> None:
    memory, taken = KVMemory(SHAPE, 500 * SHAPE.token_bytes), []
    for give, tokens in moves:
        if give and taken:
            memory.give_back(taken.pop(tokens % len(taken)))
        elif (slot := memory.take("row", tokens)) is not None:
            assert slot.arena.tokens >= tokens
            taken.append(slot)
        assert sum(arena.nbytes for arena in memory._arenas.values()) <= memory.total
        assert len({(id(slot.arena), slot.index) for slot in taken}) == len(taken)
        assert all(slot.index < slot.arena.slots for slot in taken)
    for slot in taken:
        memory.give_back(slot)
    assert memory.used == 0
    assert memory.take("prefix", 256) is not None


def test_what_is_in_a_slot_stays_when_there_are_more_of_them() -> None:
    memory = KVMemory(SHAPE, 2**20)
    slot = memory.take("row", 5)
    assert slot is not None
    cache = [(torch.randn(3, 5, 4), torch.randn(3, 5, 4)) for _ in range(2)]
    slot.write(cache)
    others = [memory.take("row", 5) for _ in range(9)]
    assert all(other is not None for other in others)
    for (keys, values), (k, v) in zip(cache, slot.read(5), strict=True):
        assert torch.equal(keys, k)
        assert torch.equal(values, v)


def test_prefix_caches_go_least_used_first() -> None:
    def cache(tokens: int) -> PrefixCache:
        return PrefixCache(np.arange(tokens), [(torch.zeros(1, tokens, 1), torch.zeros(1, tokens, 1))])

    caches = PrefixCaches(8 * 10)
    for name, tokens in (("a", 4), ("b", 4)):
        caches.put((name, b""), cache(tokens))
    assert caches.get(("a", b"")) is not None
    caches.put(("c", b""), cache(2))
    caches.put(("d", b""), cache(11))
    assert [("a", b"") in caches, ("b", b"") in caches, ("c", b"") in caches, ("d", b"") in caches] == [
        True, True, True, False,
    ]  # fmt: skip
    caches.put(("e", b""), cache(1))
    assert ("b", b"") not in caches
    assert caches.used == 8 * 7


def test_draws_have_the_models_shares() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -torch.inf, 1.5])
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (2.0, 0.7)):
        shares = torch.softmax(logits.double() / temperature, -1)
        order = shares.sort(descending=True).indices
        before = shares[order].cumsum(0) - shares[order]
        shares[order[before >= top_p]] = 0
        shares /= shares.sum()
        sampler = Sampler(Sampling(temperature=temperature, top_p=top_p, seed=3))
        drawn = Counter(sampler.sample(logits) for _ in range(4_000))
        for i, share in enumerate(shares.tolist()):
            assert drawn[i] / 4_000 == pytest.approx(share, abs=0.03)
            assert share > 0 or not drawn[i]


def test_tiny_temperatures_and_long_tails_are_numbers_too() -> None:
    wide = torch.randn(5_000, generator=torch.Generator().manual_seed(0))
    assert Sampler(Sampling(temperature=1e-300)).sample(wide) == int(wide.argmax())
    flat = Sampler(Sampling(temperature=100.0, top_p=0.999, seed=1))
    assert len({flat.sample(wide) for _ in range(50)}) > 40


def test_where_nothing_allowed_has_a_chance_all_of_it_is_alike() -> None:
    logits = torch.tensor([0.0, -torch.inf, -torch.inf, 5.0])
    allowed = torch.tensor([False, True, True])
    assert constrain(logits, allowed).tolist() == [-torch.inf, 0.0, 0.0, -torch.inf]
    assert constrain(logits, None) is logits


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_in_two_halves_is_attention(softcap: float | None, dtype: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 8, dtype=torch.float64, generator=dice).to(dtype) for n in (4, 21, 21))
    bias = torch.where(torch.rand(3, 1, 4, 21, generator=dice) < 0.7, 0.0, -1e9).to(dtype)
    halves = [
        attention(q, k[:, :, part], v[:, :, part], bias[..., part], 0.3, softcap)
        for part in (slice(0, 9), slice(9, 21))
    ]
    scores = q.double() @ k.double().transpose(2, 3) * 0.3
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    expected = torch.softmax(scores + bias.double(), -1) @ v.double()
    found = merge_softmax(*halves[0], *halves[1]).double()
    assert torch.allclose(found, expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_weights_laid_out_anew_give_the_same_products_and_leave_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "_gains", lambda *_: True)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 8, bias=False)).eval()
    decoding = linear.DecodeLinears(model)
    for rows in (1, 2, 16, 100):
        given = torch.randn(1, rows, 24)
        with torch.inference_mode():
            expected = model(given)
            with decoding.of(rows):
                assert ("forward" in model[0].__dict__) == (rows < 48)
                assert torch.allclose(model(given), expected, atol=1e-5)
        assert "forward" not in model[0].__dict__


@given(st.integers(1, 300), st.lists(st.integers(0, 11), max_size=900), st.integers(0, 20))
def test_no_prompt_fills_the_queue_and_a_new_one_finds_a_place(waiting: int, asked: list[int], running: int) -> None:
    places, held = QueueLimit(waiting, running), Counter[int]()

    def ask(key: int) -> None:
        with contextlib.suppress(QueueFullError):
            places.check(str(key), 1.0)
            places.take(str(key))
            held[key] += 1

    for key in asked:
        ask(key)
    assert all(count <= running + (waiting + 1) // 2 for count in held.values())
    if places.taken < waiting + running:
        places.check("new", 1.0)
    else:
        with pytest.raises(QueueFullError, match=f"^{waiting:,} requests are waiting already"):
            places.check("new", 1.0)


@given(st.integers(1, 300), st.integers(1, 12))
def test_prompts_that_ask_alike_share_the_queue(waiting: int, prompts: int) -> None:
    places, held = QueueLimit(waiting), Counter[int]()
    for _ in range(waiting):
        for key in range(prompts):
            with contextlib.suppress(QueueFullError):
                places.check(str(key), 1.0)
                places.take(str(key))
                held[key] += 1
    assert all(waiting // (prompts + 1) <= held[key] <= waiting // (prompts + 1) + 1 for key in range(prompts))
