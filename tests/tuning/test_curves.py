"""Norm ratio and distance from the start, against the definitions written out."""

from statistics import mean, median

import torch

from foreword.tuning.curves import moved, norm_ratio, real_norm
from tiny import FAMILIES, backbone


def test_the_usual_norm_is_that_of_the_embeddings_as_the_model_reads_them() -> None:
    for family in FAMILIES:
        model = backbone(family)
        read = [model.embedder.embed(torch.tensor([i]))[0].norm().item() for i in range(len(model.tokenizer))]
        assert abs(real_norm(model) - median(sorted(read)[: len(read) | 1])) < 0.02 * median(read)


def test_virtual_tokens_are_compared_with_real_ones_and_with_their_start() -> None:
    start = torch.tensor([[3.0, 4.0], [0.0, 2.0], [6.0, 8.0]])  # norms 5, 2, 10
    now = torch.tensor([[3.0, 4.0], [0.0, 8.0], [12.0, 16.0]])  # norms 5, 8, 20
    vectors = {"embeddings": now, "offsets": torch.ones(4, 2)}
    begun = {"embeddings": start, "offsets": torch.zeros(4, 2)}
    assert norm_ratio(vectors, begun, real=4.0) == 8 / 4
    assert abs(moved(vectors, begun) - mean([0, 6 / 2, 10 / 10])) < 1e-6


def test_keys_and_values_are_compared_with_their_start_token_by_token() -> None:
    L, H, P, size = 2, 3, 5, 4
    start = {name: torch.randn(L, H, P, size) for name in ("keys", "values")}
    now = {"keys": 3 * start["keys"], "values": start["values"].clone()}
    now["values"][:, :, 0] = 0
    assert abs(norm_ratio(now, start, real=100.0) - 3) < 1e-5
    assert abs(moved(now, start) - mean([2] * P + [1] + [0] * (P - 1))) < 1e-5


def test_nothing_is_said_where_all_began_at_zero() -> None:
    zero = {"keys": torch.zeros(1, 1, 2, 4), "values": torch.zeros(1, 1, 2, 4)}
    assert norm_ratio(zero, zero, 1.0) is moved(zero, zero) is None
    assert norm_ratio({}, {}, 1.0) is moved({}, {}) is None
