"""The way for families that bring attention of their own (ALiBi in BLOOM and MPT, GPT-J …). Knows tensors only.

The shared prefix is computed once into a KV cache, the cache is repeated for every answer, and rows are padded on the
right: the same numbers as the packed way, with more copying.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foreword.backbone.batch import Part, answer_log_probs
from foreword.backbone.encode import Ids
from foreword.backbone.input_embedder import InputEmbedder

TOKENS = 4_096
"""Tokens that go through the model at once, the shared prefix counted in every row."""


def padded_log_probs(embedder: InputEmbedder, part: Part) -> Tensor:
    """Log-probability [A] of every answer token, in order of example, answer, token; fp32 or better."""
    rows = [(example.question, answer) for example in part.examples for answer in example.answers]
    longest = max(len(question) + len(answer) for question, answer in rows)
    # Every answer is a row here: many choices make many rows.
    size = max(1, TOKENS // (len(part.shared_prefix) + longest))
    return torch.cat([_piece(embedder, part, rows[i : i + size]) for i in range(0, len(rows), size)])


def _piece(embedder: InputEmbedder, part: Part, rows: Sequence[tuple[Ids, tuple[int, ...]]]) -> Tensor:
    sequences = [np.concatenate([question, np.array(answer[:-1], np.int64)]) for question, answer in rows]
    R, n, F = len(rows), max(map(len, sequences)), len(part.shared_prefix)
    before = int((part.shared_prefix >= 0).sum())
    mask = torch.zeros(R, F + n, dtype=torch.int64)
    mask[:, :F] = 1
    embedded = []
    for i, sequence in enumerate(sequences):
        mask[i, F : F + len(sequence)] = 1
        padded = np.pad(sequence, (0, n - len(sequence)))
        embedded.append(embedder.embed_row(padded, part.vectors, before, asked=len(rows[i][0])))
    cache = embedder.new_cache(part.cache)
    if part.cached < F:
        embedded_prefix = embedder.embed_row(part.shared_prefix[part.cached :], part.vectors)[None]
        embedder.model(inputs_embeds=embedded_prefix, use_cache=True, **{embedder.takes_cache: cache})
    if F:
        cache.batch_repeat_interleave(R)
    logits = embedder.model(
        inputs_embeds=torch.stack(embedded),
        attention_mask=mask.to(embedder.device),
        use_cache=True,
        **{embedder.takes_cache: cache},
    ).logits  # [R, n, V]
    return answer_log_probs(logits, [len(question) - 1 for question, _ in rows], [answer for _, answer in rows])
