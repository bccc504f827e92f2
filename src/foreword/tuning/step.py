"""One step of training, whatever is trained: loss and gradient of a batch, then a careful update. Knows no loop."""

import math
from collections.abc import Callable, Sequence

import torch

from foreword.backbone import Backbone, Example, Vectors
from foreword.backbone.batch import batches
from foreword.backbone.encode import Ids
from foreword.errors import ForewordError
from foreword.tuning.objective import mean_loss, weight
from foreword.tuning.options import TuneOptions

STEP_TOKENS = 4_096
"""Tokens of padded rows that go through the backbone at once; larger batches are added up in pieces."""


class DivergedError(ForewordError):
    """The loss or its gradient is not finite; nothing was updated."""


def accumulate(
    backbone: Backbone, front: Ids, vectors: Vectors, examples: Sequence[Example], right: Sequence[int]
) -> float:
    """The batch's mean loss, its gradient added up in the graph's leaves; in pieces, to bound memory, if rows are long.

    The leaves are `vectors`, or weights of the backbone where these are trained.
    """
    whole, loss = weight(examples), 0.0
    for piece in batches(examples, STEP_TOKENS):
        rows = [examples[i] for i in piece]
        log_probs = backbone.log_probs(rows, front, vectors)
        part = mean_loss(log_probs, rows, [right[i] for i in piece]) * (weight(rows) / whole)
        part.backward()
        loss += part.item()
    return loss


def descend(optimiser: torch.optim.Optimizer, options: TuneOptions, step: int, gradient: Callable[[], float]) -> float:
    """Move the optimiser's parameters once and return the loss; `gradient` fills their gradients and returns it.

    Raises DivergedError before anything is moved.
    """
    for group in optimiser.param_groups:
        group["lr"] = options.rate * schedule(step, options.steps, options.warmup)
    optimiser.zero_grad(set_to_none=True)
    loss = gradient()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip).item()
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise DivergedError(f"the loss is {loss} and the gradient's norm {norm} at step {step}")
    optimiser.step()
    return loss


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine down to a tenth."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    along = (step - rising) / max(1, steps - rising)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * along))
