"""The same loss and gradient as PEFT's prompt tuning with the usual training loop, for virtual tokens before text."""

import copy
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from foreword.backbone import Backbone, Example, Vectors
from tiny import backbone

REVIEWS = [
    ("A quiet, generous film that trusts its actors and never raises its voice.", " positive"),
    ("Two hours of noise in search of a single idea.", " negative"),
    ("It stumbles in the middle, but the last scene is worth the wait.", " positive"),
    ("The jokes were old when the director was young.", " negative"),
    ("Warm and funny, with a sad song at its heart that stays with you for days.", " positive"),
    ("Everything here has been done before, and nearly always better.", " negative"),
    ("A feast for the eyes.", " positive"),
    ("I looked at my watch more often than at the screen, and the watch had more to say.", " negative"),
]


@pytest.mark.parametrize("family", ["llama", "qwen", "gpt2"])
def test_loss_and_gradient_are_those_of_peft(family: str) -> None:
    ours = backbone(family)
    P, rng = 5, random.Random(0)
    rows = [[rng.randrange(10, 200) for _ in range(rng.randint(3, 20))] for _ in range(7)]
    answers = [tuple(rng.randrange(10, 200) for _ in range(rng.randint(1, 3))) for _ in rows]
    theirs = of_peft(ours, P, "eager")
    expected, gradient = loss_of_peft(theirs, rows, answers)
    loss, found = loss_of_ours(ours, theirs.prompt_encoder["default"].embedding.weight, rows, answers)
    assert abs(loss - expected) / expected < 1e-5
    assert ((found - gradient).norm() / gradient.norm()).item() < 1e-4


@pytest.mark.slow
def test_the_gradient_in_bf16_is_no_further_from_the_true_one_than_peft_s() -> None:
    """Both are rounded in thousands of places; one batch and one start say little, so several are judged."""
    true, rounded = (Backbone.load("smollm2-135m", dtype) for dtype in ("float32", "bfloat16"))
    P, rng, errors = 20, random.Random(0), []
    exact, theirs = of_peft(true, P, "sdpa"), of_peft(rounded, P, "sdpa")
    encode = true.tokenizer.encode
    for _ in range(8):
        start = true.embedder.embed(
            torch.tensor(encode(" ".join(text for text, _ in rng.sample(REVIEWS, 3)))[:P])
        ).detach()
        some = rng.sample(REVIEWS, 4)
        rows = [encode(f"Review: {text}\nSentiment:") for text, _ in some]
        answers = [tuple(encode(label)) for _, label in some]
        for model in (exact, theirs):
            model.prompt_encoder["default"].embedding.weight.data = start.clone()
        gradient = loss_of_peft(exact, rows, answers)[1]
        both = loss_of_ours(rounded, start, rows, answers)[1], loss_of_peft(theirs, rows, answers)[1]
        errors.append([((found - gradient).norm() / gradient.norm()).item() for found in both])
    ours, peft = np.array(errors).T
    assert ours.mean() < 0.1, "so large that it compares nothing"
    assert ours.mean() <= peft.mean() + 2 * (ours - peft).std(ddof=1) / len(errors) ** 0.5


def of_peft(ours: Backbone, P: int, attention: str) -> Any:
    plain = copy.deepcopy(ours.model)
    plain.set_attn_implementation(attention)
    with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
        warnings.simplefilter("ignore")
        from peft import PromptTuningConfig, get_peft_model

        return get_peft_model(plain, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P))


def loss_of_peft(model: Any, rows: list[list[int]], answers: list[tuple[int, ...]]) -> tuple[float, torch.Tensor]:
    longest = max(len(row) + len(answer) for row, answer in zip(rows, answers, strict=True))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        whole = torch.tensor([*row, *answer])
        ids[i, : len(whole)], mask[i, : len(whole)] = whole, 1
        labels[i, len(row) : len(whole)] = whole[len(row) :]
    weight = model.prompt_encoder["default"].embedding.weight
    weight.grad = None
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), weight.grad.float()


def loss_of_ours(
    model: Backbone, start: torch.Tensor, rows: list[list[int]], answers: list[tuple[int, ...]]
) -> tuple[float, torch.Tensor]:
    virtual = start.detach().float().clone().requires_grad_()
    shared_prefix = np.arange(-1, -1 - len(virtual), -1, dtype=np.int64)
    examples = [Example(np.array(row), (answer,)) for row, answer in zip(rows, answers, strict=True)]
    loss = -model.log_probs(examples, shared_prefix, Vectors(virtual)).mean()
    loss.backward()
    return loss.item(), virtual.grad
