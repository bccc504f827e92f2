"""The way for families that bring attention of their own (ALiBi in BLOOM and MPT, GPT-J …). Knows tensors only.

The front is computed once into a KV cache, the cache is repeated for every answer, and rows are padded on the right:
the same numbers as the packed way, with more copying.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from foreword.backbone.batch import Example
from foreword.backbone.encode import Ids

TOKENS = 4_096
"""Tokens that go through the model at once, the front counted in every row."""


def log_probs_unpacked(
    model: Any,
    embed: Callable[[Tensor, Tensor | None], Tensor],
    examples: Sequence[Example],
    front: Ids,
    virtual: Tensor | None,
) -> Tensor:
    """Log-probability [A] of every answer token, in order of example, answer, token; fp32 or better."""
    rows = [(example.question, answer) for example in examples for answer in example.answers]
    longest = max(len(question) + len(answer) for question, answer in rows)
    size = max(1, TOKENS // (len(front) + longest))  # every answer is a row here: many choices make many rows
    pieces = [rows[i : i + size] for i in range(0, len(rows), size)]
    return torch.cat([_piece(model, embed, piece, front, virtual) for piece in pieces])


def _piece(
    model: Any,
    embed: Callable[[Tensor, Tensor | None], Tensor],
    rows: Sequence[tuple[Ids, tuple[int, ...]]],
    front: Ids,
    virtual: Tensor | None,
) -> Tensor:
    device = model.get_input_embeddings().weight.device
    sequences = [np.concatenate([question, np.array(answer[:-1], np.int64)]) for question, answer in rows]
    R, n, F = len(rows), max(map(len, sequences)), len(front)
    ids = torch.zeros(R, n, dtype=torch.int64)
    mask = torch.zeros(R, F + n, dtype=torch.int64)
    mask[:, :F] = 1
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.from_numpy(sequence)
        mask[i, F : F + len(sequence)] = 1
    cache = DynamicCache()
    if F:
        embedded = embed(torch.from_numpy(front).to(device), virtual)[None]
        model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(R)
    embedded = embed(ids.flatten().to(device), virtual).view(R, n, -1)
    logits = model(
        inputs_embeds=embedded, attention_mask=mask.to(device), past_key_values=cache, use_cache=True
    ).logits  # [R, n, V]
    row = torch.tensor([i for i, (_, answer) in enumerate(rows) for _ in answer])
    place = torch.tensor([len(question) - 1 + t for question, answer in rows for t in range(len(answer))])
    target = torch.tensor([token for _, answer in rows for token in answer])
    chosen = logits[row, place]
    dtype = torch.promote_types(chosen.dtype, torch.float32)
    return torch.log_softmax(chosen, -1, dtype=dtype)[torch.arange(len(target)), target]
