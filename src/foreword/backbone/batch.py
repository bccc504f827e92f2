"""Rows to be read together: questions and candidate answers behind one front. Knows ids; knows no weights, no text.

A row is a small tree: its question once, then every candidate answer as a branch that sees the question and itself.
The last token of an answer is never read, so it is never computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreword.backbone.attention import Layout
from foreword.backbone.encode import Ids

ATTENTION = 2_000_000
"""Pairs of tokens of the same row in a batch: what attention takes memory for, in every head and layer."""


@dataclass(frozen=True)
class Example:
    """One row behind the front: the rest of the prompt, and the answers whose probability is asked for."""

    question: Ids
    """[n] at least one token; virtual tokens below zero."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of each candidate, at least one token each."""

    def __len__(self) -> int:
        """Tokens that go through the model."""
        return len(self.question) + sum(len(answer) - 1 for answer in self.answers)


@dataclass(frozen=True)
class Packed:
    """Examples laid behind a front in one sequence of T = F + N tokens (F = 0 when the front is cached)."""

    ids: Tensor
    """[T] int64; virtual tokens below zero."""
    layout: Layout
    read: Tensor
    """[M] the places whose next token is asked for."""
    which: Tensor
    """[A] for every answer token, in order of example, answer, token: the one of `read` that predicts it."""
    target: Tensor
    """[A] its id."""


def pack(examples: Sequence[Example], front: Ids, *, cached: bool, device: torch.device) -> Packed:
    """Lay out `examples` behind `front` [F]; `cached` leaves the front itself out of the sequence."""
    lead = 0 if cached else len(front)
    ids, positions, branches = [front[:lead]], [np.arange(lead)], []
    read: list[int] = []
    which: list[int] = []
    target: list[int] = []
    start = lead
    for example in examples:
        asked = len(example.question)
        steps = [np.arange(len(answer) - 1) for answer in example.answers]
        ids += [example.question, *(np.array(answer[:-1], dtype=np.int64) for answer in example.answers)]
        positions += [len(front) + np.arange(asked), *(len(front) + asked + step for step in steps)]
        branches.append(np.repeat(np.arange(len(steps) + 1), [asked, *map(len, steps)]))
        last = len(read)
        read.append(start + asked - 1)
        at = start + asked
        for answer in example.answers:
            which += [last, *range(len(read), len(read) + len(answer) - 1)]
            read += range(at, at + len(answer) - 1)
            target += answer
            at += len(answer) - 1
        start = at
    lengths = np.array([len(branch) for branch in branches])
    slots, unpad = _padding(lengths, lead)
    layout = Layout(
        front=lead,
        positions=_tensor(np.concatenate(positions), device),
        slots=_tensor(slots, device),
        unpad=_tensor(unpad, device),
        rows=len(examples),
        width=int(lengths.max()),
        visible=_tensor(_visible(branches, int(lengths.max())), device),
    )
    return Packed(
        _tensor(np.concatenate(ids), device), layout, *(_tensor(np.array(x), device) for x in (read, which, target))
    )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def _padding(lengths: np.ndarray, lead: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots [B * n] and unpad [N] of rows of these lengths that begin at token `lead`."""
    starts = lead + np.cumsum(lengths) - lengths
    column = np.arange(lengths.max())
    filled = column < lengths[:, None]
    slots = starts[:, None] + np.where(filled, column, 0)
    return slots.ravel(), np.flatnonzero(filled.ravel())


def _visible(branches: list[np.ndarray], width: int) -> np.ndarray:
    """[B or 1, n, n] bool: causal, and across answers closed. One mask for all rows where no row has branches."""
    causal = np.tri(width, dtype=bool)
    if not any(branch[-1] for branch in branches):
        return causal[None]
    padded = np.stack([np.pad(branch, (0, width - len(branch))) for branch in branches])
    visible: np.ndarray = causal & ((padded[:, None, :] == 0) | (padded[:, None, :] == padded[:, :, None]))
    return visible


def batches(examples: Sequence[Example], tokens: int) -> list[list[int]]:
    """Cut into batches of like length, at most `tokens` tokens each when padded; returns indices, longest first.

    Long rows share a batch with fewer others still, because their attention grows with the square of the length.
    """
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i]))
    result: list[list[int]] = []
    for i in order:
        rows, width = (len(result[-1]) + 1, len(examples[result[-1][0]])) if result else (1, 0)
        if not result or rows * width > tokens or rows * width**2 > ATTENTION:
            result.append([])
        result[-1].append(i)
    return result
