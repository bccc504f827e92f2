"""Rows that tell whether a way of reading gives a model's own numbers; any vocabulary holds them. Knows ids only."""

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
    front=np.array([5, 6, 7, 8], dtype=np.int64),
)


def _ids(length: int) -> np.ndarray:
    return np.resize(np.arange(5, 30), length)


VIRTUAL = 2
LONG = (
    Part(
        (Example(_ids(520), ((14, 15), (16, 17, 18))), Example(_ids(430), ((20,),))),
        front=np.array([-1, -2, 5], dtype=np.int64),
    ),
    Part((Example(_ids(380), ((20, 21, 22), (23,))),), front=PART.front),
)
"""Two prompts, the first with virtual tokens, and rows that fill whole blocks of a kernel. What is compiled for them is
compiled for all: their number of blocks, eleven, is not that of anything else, which would be taken for the same."""
LONGEST = 600

NO_ANSWER = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
"""Of a GPU that is full or broken, which tells nothing of the model; they are among the errors."""
ERRORS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, ForewordError)
"""Each family has its own way of not being able to."""


def alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether log-probabilities [A] are the same, as far as a model of this dtype can tell."""
    apart = (found.float() - expected).abs()
    if dtype.itemsize > 2:
        return bool((apart < 1e-3).all())
    return bool(apart.mean() < 0.2 + 0.05 * expected.abs().mean())  # bf16 rounds too coarsely to tell more


def one_way(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """The same of gradients: how far they are apart, of their length."""
    return bool((found - expected).norm() < (1e-2 if dtype.itemsize > 2 else 0.2) * expected.norm())
