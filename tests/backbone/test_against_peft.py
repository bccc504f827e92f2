"""The same loss and gradient as PEFT's prompt tuning with the usual training loop, for virtual tokens at the front."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch

from foreword.backbone import Example, Vectors
from tiny import backbone


@pytest.mark.parametrize("family", ["llama", "qwen", "gpt2"])
def test_loss_and_gradient_are_those_of_peft(family: str) -> None:
    ours = backbone(family)
    P, rng = 5, random.Random(0)
    rows = [[rng.randrange(10, 200) for _ in range(rng.randint(3, 20))] for _ in range(7)]
    answers = [tuple(rng.randrange(10, 200) for _ in range(rng.randint(1, 3))) for _ in rows]

    plain = copy.deepcopy(ours.model)
    plain.set_attn_implementation("eager")
    with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
        warnings.simplefilter("ignore")
        from peft import PromptTuningConfig, get_peft_model

        theirs = get_peft_model(plain, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P))
    weight = theirs.prompt_encoder["default"].embedding.weight
    longest = max(len(row) + len(answer) for row, answer in zip(rows, answers, strict=True))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        whole = torch.tensor([*row, *answer])
        ids[i, : len(whole)], mask[i, : len(whole)] = whole, 1
        labels[i, len(row) : len(whole)] = whole[len(row) :]
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected.backward()

    virtual = weight.detach().clone().requires_grad_()
    front = np.arange(-1, -1 - P, -1, dtype=np.int64)
    examples = [Example(np.array(row), (answer,)) for row, answer in zip(rows, answers, strict=True)]
    loss = -ours.log_probs(examples, front, Vectors(virtual)).mean()
    loss.backward()
    assert abs(loss.item() - expected.item()) / expected.item() < 1e-5
    assert ((virtual.grad - weight.grad).norm() / weight.grad.norm()).item() < 1e-4
