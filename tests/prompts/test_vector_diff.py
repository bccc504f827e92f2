"""How far vectors are apart: against scipy, one token at a time."""

import numpy as np
import pytest
from scipy.spatial import distance

from foreword.errors import UsageError
from foreword.prompts import SoftTokens
from foreword.prompts.vector_diff import SoftDiff, soft_diff


def soft(tensors: dict[str, np.ndarray], backbone: str = "tiny") -> SoftTokens:
    return SoftTokens({k: v.astype(np.float32) for k, v in tensors.items()}, backbone, backbone * 3, "m", "run", 8)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def expect(found: SoftDiff, name: str, a: list[np.ndarray], b: list[np.ndarray]) -> None:
    tokens = found.tensors[name]
    assert [token.index for token in tokens] == list(range(max(len(a), len(b))))
    for i, token in enumerate(tokens):
        assert token.norm_a == (pytest.approx(np.sqrt((a[i] ** 2).sum())) if i < len(a) else None)
        assert token.norm_b == (pytest.approx(np.sqrt((b[i] ** 2).sum())) if i < len(b) else None)
        if i < min(len(a), len(b)):
            assert token.apart is not None
            assert token.apart.cosine == pytest.approx(1 - distance.cosine(a[i], b[i]), abs=1e-6)
            assert token.apart.distance == pytest.approx(distance.euclidean(a[i], b[i]), rel=1e-6)
        else:
            assert token.apart is None


def test_virtual_tokens_and_prefixes_token_by_token() -> None:
    a, b = drawn(5, 16), drawn(3, 16, seed=1)
    expect(soft_diff(soft({"embeddings": a}), soft({"embeddings": b})), "embeddings", list(a), list(b))
    a, b = (drawn(2, 3, 4, 6, seed=seed) for seed in (2, 3))
    found = soft_diff(soft({"keys": a, "values": b}), soft({"keys": b, "values": b}))
    expect(found, "keys", *([x[:, :, i].ravel() for i in range(4)] for x in (a, b)))
    assert [token.apart for token in found.tensors["values"]] == [token.apart for token in found.tensors["values"]]
    assert all(token.apart and token.apart.distance == 0 for token in found.tensors["values"])
    assert found.reason == ""


def test_offsets_that_begin_at_zero_have_no_direction() -> None:
    a = {"embeddings": drawn(2, 8), "offsets": np.zeros((4, 8))}
    b = {"embeddings": drawn(2, 8), "offsets": drawn(4, 8)}
    tokens = soft_diff(soft(a), soft(b)).to_json()["tokens"]["offsets"]
    assert [token["cosine"] for token in tokens] == [None] * 4
    assert [token["distance"] for token in tokens] == pytest.approx([token["norm_b"] for token in tokens])


def test_what_cannot_be_compared_is_said_and_still_described() -> None:
    here, wide = soft({"embeddings": drawn(2, 8)}), soft({"embeddings": drawn(2, 9)})
    prefix = soft({"keys": drawn(2, 3, 4, 6), "values": drawn(2, 3, 4, 6)})
    other = soft({"embeddings": drawn(2, 8)}, "large")
    for a, b, reason in (
        (here, other, "A is of 'tiny' (tinytinytiny), B of 'large' (largelargela)"),
        (here, prefix, "A holds embeddings, B keys and values"),
        (here, wide, "A's numbers per token are {'embeddings': 8}, B's {'embeddings': 9}"),
        (here, None, "B has none"),
        (None, here, "A has none"),
    ):
        found = soft_diff(a, b)
        assert found.reason == reason
        assert found.to_json()["not_compared"] == reason
        assert {token.apart for tokens in found.tensors.values() for token in tokens} == {None}
        for side, given in (("a", a), ("b", b)):
            tokens = found.tensors["keys" if given is prefix else "embeddings"]
            assert sum(getattr(token, f"norm_{side}") is not None for token in tokens) == (len(given) if given else 0)


def test_how_far_each_has_gone_from_where_it_began() -> None:
    a, b, start = drawn(3, 8), drawn(4, 8, seed=1), drawn(3, 8, seed=2)
    plain = soft_diff(soft({"embeddings": a}), soft({"embeddings": b}))
    tokens = plain.with_starts({"embeddings": start}, None).to_json()["tokens"]["embeddings"]
    for i, token in enumerate(tokens[:3]):
        assert token["start_cosine_a"] == pytest.approx(1 - distance.cosine(a[i], start[i]), abs=1e-6)
        assert token["start_distance_a"] == pytest.approx(distance.euclidean(a[i], start[i]), rel=1e-6)
    assert not any("start_cosine_b" in token for token in tokens)
    assert "start_cosine_a" not in tokens[3]
    with pytest.raises(UsageError, match="a start of shape"):
        plain.with_starts(None, {"embeddings": start})
