"""Rows to be read together: questions and candidate answers behind one shared prefix. Knows ids; no weights, no text.

A row is a small tree: its question once, then every candidate answer as a branch that sees the question and itself.
The last token of an answer is never read, so it is never computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foreword.backbone.encode import Ids, text_places
from foreword.backbone.layout import Layout
from foreword.backbone.vectors import NO_VECTORS, LayerCache, Vectors

ATTENTION = 2_000_000
"""Pairs of a token and what it looks at in a batch: what attention takes memory for, in every head and layer."""


@dataclass(frozen=True)
class Example:
    """One row behind the shared prefix: the rest of the prompt, and the answers whose probability is asked for."""

    question: Ids
    """[n] at least one token; virtual tokens below zero."""
    answers: tuple[tuple[int, ...], ...]
    """Token ids of each candidate, at least one token each."""

    def __len__(self) -> int:
        """Tokens that go through the model."""
        return len(self.question) + sum(len(answer) - 1 for answer in self.answers)


@dataclass(frozen=True)
class Part:
    """Rows of one prompt. Several parts can share a batch."""

    examples: Sequence[Example]
    shared_prefix: Ids
    """[F] what all of its rows begin with."""
    vectors: Vectors = NO_VECTORS
    cache: LayerCache = ()
    """Keys and values of the shared prefix's first tokens, computed before or learned."""

    @property
    def cached(self) -> int:
        """How many of the shared prefix's tokens are in the cache."""
        return self.cache[0][0].shape[1] if self.cache else 0


@dataclass(frozen=True)
class PrefixCache:
    """A shared prefix that has been computed: the rows behind it need only its keys and values.

    The shared prefix is what all rows of a prompt begin with: the static part of its template, virtual tokens included.
    """

    ids: Ids
    """[F] of the shared prefix."""
    cache: LayerCache
    """Per layer, keys and values [H, F, head_dim]; empty where the model takes no packed rows."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.cache for tensor in layer)


@dataclass(frozen=True)
class Packed:
    """Parts in one sequence of T tokens: all shared prefixes, as far as they are not cached, then all rows."""

    ids: Tensor
    """[T] int64; below zero, a row of all parts' virtual tokens, one part's behind another's."""
    offsets: Tensor | None
    """[T] the row of all parts' offsets that is added to a token, or -1; None where no part has offsets."""
    layout: Layout
    read: Tensor
    """[M] the places whose next token is asked for."""
    which: Tensor
    """[A] for every answer token, in order of part, example, answer, token: the one of `read` that predicts it."""
    target: Tensor
    """[A] its id."""


def pack(parts: Sequence[Part], device: torch.device) -> Packed:
    """Lay out `parts`, the shorter prefixes filled up to the longest with tokens that nothing sees."""
    C, F = (max(lengths) for lengths in zip(*((p.cached, len(p.shared_prefix) - p.cached) for p in parts), strict=True))
    R = max(len(part.examples) for part in parts)
    sequence, ahead = _Sequence(), np.full((len(parts), C + F), -1)
    for i, part in enumerate(parts):
        rest = np.arange(part.cached, len(part.shared_prefix))
        ahead[i, : part.cached] = np.arange(part.cached)
        ahead[i, C : C + len(rest)] = rest
        sequence.open(parts[:i], part, behind=0)
        sequence.add(part.shared_prefix, skip=part.cached)
        sequence.fill(F - len(rest))
    starts: list[int] = []
    branches: list[np.ndarray] = []
    read: list[int] = []
    which: list[int] = []
    target: list[int] = []
    for i, part in enumerate(parts):
        for example in part.examples:
            starts.append(sequence.count)
            sequence.open(parts[:i], part, behind=len(part.shared_prefix))
            sequence.add(example.question)
            last = len(read)
            read.append(sequence.count - 1)
            for answer in example.answers:
                steps = len(answer) - 1
                which += [last, *range(len(read), len(read) + steps)]
                read += range(sequence.count, sequence.count + steps)
                target += answer
                sequence.add(np.array(answer[:-1], dtype=np.int64), branch=True)
            lengths = [len(example.question), *(len(answer) - 1 for answer in example.answers)]
            branches.append(np.repeat(np.arange(len(lengths)), lengths))
        missing = R - len(part.examples)
        starts += [starts[-1]] * missing
        branches += [branches[-1][:0]] * missing
    slots, unpad = _padding(np.array(starts), np.array([len(branch) for branch in branches]))
    layout = Layout(
        groups=len(parts),
        prefix_tokens=F,
        positions=_tensor(np.concatenate(sequence.positions), device),
        ahead=_tensor(ahead, device),
        slots=_tensor(slots, device),
        unpad=_tensor(unpad, device),
        branches=_tensor(np.concatenate(branches), device),
        cache=_join(parts, C) if C else (),
    )
    offsets = _tensor(np.concatenate(sequence.offsets), device) if any(p.vectors.length for p in parts) else None
    ids = _tensor(np.concatenate(sequence.ids), device)
    return Packed(ids, offsets, layout, *(_tensor(np.array(x), device) for x in (read, which, target)))


class _Sequence:
    """A packed sequence as it grows: ids, positions, and which offset each token takes."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.offsets: list[np.ndarray] = []
        self.count = 0

    def open(self, before: Sequence[Part], part: Part, behind: int) -> None:
        """Begin a shared prefix, or a row of `part` that stands `behind` tokens of its shared prefix."""
        self._virtual, self._offset = sum(p.vectors.count for p in before), sum(p.vectors.length for p in before)
        self._length = part.vectors.length
        self._position, self._texts = behind, int((part.shared_prefix[:behind] >= 0).sum())

    def add(self, ids: Ids, skip: int = 0, branch: bool = False) -> None:
        """Go on with `ids`, the first `skip` of which are in the cache; a `branch` leaves the place where it began."""
        # What is written has no offsets: generation could not add them to tokens that it has yet to choose.
        places = text_places(ids, self._texts, 0 if branch else self._length)
        self.ids.append(np.where(ids < 0, ids - self._virtual, ids)[skip:])
        self.positions.append(np.arange(self._position, self._position + len(ids))[skip:])
        self.offsets.append(np.where(places < 0, -1, self._offset + places)[skip:])
        self.count += len(ids) - skip
        if not branch:
            self._position, self._texts = self._position + len(ids), self._texts + int((ids >= 0).sum())

    def fill(self, count: int) -> None:
        nothing = np.zeros(count, dtype=np.int64)
        for list_, value in ((self.ids, nothing), (self.positions, nothing), (self.offsets, nothing - 1)):
            list_.append(value)
        self.count += count


def _join(parts: Sequence[Part], C: int) -> LayerCache:
    """The parts' caches side by side: per layer two [H, G, C, head_dim]."""
    layers = max(len(part.cache) for part in parts)
    like = next(part.cache[0][0] for part in parts if part.cache)
    nothing = like.new_zeros(like.shape[0], 0, like.shape[2])

    def side_by_side(layer: int, kind: int) -> Tensor:
        given = [part.cache[layer][kind] if part.cache else nothing for part in parts]
        return torch.stack([torch.nn.functional.pad(x, (0, 0, 0, C - x.shape[1])) for x in given], 1)

    return [(side_by_side(layer, 0), side_by_side(layer, 1)) for layer in range(layers)]


def _padding(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slots [B, n] and unpad [N] of rows of these lengths that begin at these tokens."""
    column = np.arange(lengths.max())
    filled = column < lengths[:, None]
    return starts[:, None] + np.where(filled, column, 0), np.flatnonzero(filled.ravel())


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def batches(examples: Sequence[Example], tokens: int, prefix_tokens: int = 0) -> list[list[int]]:
    """Cut into batches of like length, at most `tokens` tokens each when padded; returns indices, longest first.

    Long rows, and rows behind a long shared prefix of `prefix_tokens`, share a batch with fewer others still, because
    attention grows with the product of what looks and what is looked at.
    """
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i]))
    result: list[list[int]] = []
    for i in order:
        rows, width = (len(result[-1]) + 1, len(examples[result[-1][0]])) if result else (1, 0)
        if not result or rows * width > tokens or rows * width * (prefix_tokens + width) > ATTENTION:
            result.append([])
        result[-1].append(i)
    return result


def answer_log_probs(logits: Tensor, starts: Sequence[int], answers: Sequence[tuple[int, ...]]) -> Tensor:
    """Log-probability [A] of every answer token in order, out of padded rows' logits [R, n, V]; fp32 or better.

    `starts` says for each row at which of its n places the first token of its answer is predicted.
    """
    row = torch.tensor([i for i, answer in enumerate(answers) for _ in answer])
    place = torch.tensor([start + t for start, answer in zip(starts, answers, strict=True) for t in range(len(answer))])
    target = torch.tensor([token for answer in answers for token in answer])
    chosen = logits[row, place]
    dtype = torch.promote_types(chosen.dtype, torch.float32)
    return torch.log_softmax(chosen, -1, dtype=dtype)[torch.arange(len(target)), target]
