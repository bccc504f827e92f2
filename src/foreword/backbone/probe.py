"""Rows that tell whether a way of reading gives a model's own numbers; any vocabulary holds them. Knows ids only."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from foreword.backbone.batch import Example, Part
from foreword.errors import ForewordError

PART = Part(
    (
        Example(np.array([9, 10, 11, 12, 13]), ((14, 15), (16, 17))),
        Example(np.array([18, 19]), ((20, 21, 22), (23,))),
    ),
    shared_prefix=np.array([5, 6, 7, 8], dtype=np.int64),
)


def _ids(length: int) -> np.ndarray:
    return np.resize(np.arange(5, 30), length)


LONG = (
    Part(
        (Example(_ids(520), ((14, 15), (16, 17, 18))), Example(_ids(430), ((20,),))),
        shared_prefix=np.array([-1, -2, 5], dtype=np.int64),
    ),
    Part((Example(_ids(380), ((20, 21, 22), (23,))),), shared_prefix=PART.shared_prefix),
)
"""Two prompts, whose rows fill whole blocks of a kernel: eleven blocks in all, for torch would take a number that is
also one of heads for the same, and compile another kernel where they differ."""
VIRTUAL = 2
"""Virtual tokens of the first."""
LONGEST = 600
"""Tokens of context that hold its rows."""

NO_ANSWER = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
"""Of a GPU that is full or broken, which tells nothing of the model."""
_ERRORS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, ForewordError)
"""Each family has its own way of not being able to; want of memory is among the runtime errors."""


@contextlib.contextmanager
def attempt() -> Iterator[None]:
    """What a family cannot do ends here without a word; whoever tries looks for what should have been found."""
    try:
        yield
    except NO_ANSWER:
        raise
    except _ERRORS:
        pass


def plain_log_probs(logits: Callable[[list[int], tuple[int, ...]], Tensor]) -> Tensor:
    """Log-probabilities [A] of the answers in `PART`, one row at a time.

    `logits(question, answer)` gives what a model's own forward pass predicts the answer's n tokens with, [n, V].
    """
    log_probs: list[Tensor] = []
    with torch.no_grad():
        for example in PART.examples:
            for answer in example.answers:
                predicted = logits([*PART.shared_prefix, *example.question], answer)
                log_probs += torch.log_softmax(predicted.float(), -1)[range(len(answer)), answer]
    return torch.stack(log_probs)


def agrees(compute: Callable[[], Tensor], plain: Tensor, dtype: torch.dtype) -> bool:
    """Whether another way to `compute` them gives the `plain` log-probabilities [A]; False where it cannot at all."""
    log_probs = None
    with attempt(), torch.no_grad():
        log_probs = compute()
    return log_probs is not None and alike(log_probs, plain, dtype)


def alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities [A] are the same, as far as a model of this dtype can tell."""
    apart = (found.float() - expected).abs()
    if dtype.itemsize > 2:
        return bool((apart < 1e-3).all())
    return bool(apart.mean() < 0.2 + 0.05 * expected.abs().mean())  # bf16 rounds too coarsely to tell more


def gradients_alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """The same of gradients, by how far they are apart, as a share of their length."""
    return bool((found - expected).norm() < (1e-2 if dtype.itemsize > 2 else 0.2) * expected.norm())
