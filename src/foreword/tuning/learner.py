"""What learns: vectors that an encoder makes (here), or adapters (`lora`). Knows a step; knows no rows and no loop.

A step reads `vectors`, the loss over a batch adds gradients up in `leaves`, `backward_and_clip` hands them to the
parameters, and `optimizer_step` moves these. What is measured, kept and served is the average over the steps, `ema`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from foreword.backbone import Backbone, Vectors
from foreword.errors import ForewordError
from foreword.prompts import Prompt, SoftTokens
from foreword.tuning.methods import METHODS, Start, by_task, count, flat, made
from foreword.tuning.options import TuneOptions

EMA_DECAY = 0.95
"""Of the exponential moving average over the steps, which is what is measured, kept and served: it does better than the
last step's numbers, most of all early on (Polyak and Juditsky 1992)."""


class DivergedError(ForewordError):
    """The loss, its gradient or what is learned is not finite; nothing was updated."""


class Learner(Protocol):
    """What the loop asks of a learner."""

    backbone: Backbone
    """What training rows go through."""
    optimizer: torch.optim.AdamW
    names: dict[Tensor, str]
    """The parameters' names."""
    ema: Mapping[str, Tensor]
    """The average over the steps of what is learned; a step makes a new one and leaves the one before as it is."""

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        ...

    @property
    def leaves(self) -> Sequence[Tensor]:
        """Where gradients gather over a step's passes."""
        ...

    def vectors(self) -> list[Vectors]:
        """What each task's rows are read with in this step; gradients of the step before are gone."""
        ...

    def backward_and_clip(self) -> float:
        """Hand the gathered gradients to the parameters and clip them; their norm before that."""
        ...

    def optimizer_step(self, lr_scale: float) -> None:
        """Move the parameters at `lr_scale` of the peak learning rate, and the average after them."""
        ...

    def evaluating(self) -> AbstractContextManager[Sequence[Prompt]]:
        """Every task's prompt, to be read by `backbone`, which holds the average until this ends."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint needs to make the parameters again; the optimizer's state stands beside it."""
        ...

    def restore(self, state: Mapping[str, Tensor], ema: Mapping[str, Tensor], steps: int) -> None:
        """The inverse, after so many `steps`."""
        ...


class SoftPromptLearner:
    """The encoder of one task's prompt, or of several tasks' prompts."""

    def __init__(
        self, backbone: Backbone, prompts: Sequence[Prompt], starts: Sequence[Start], options: TuneOptions,
        shared: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """`shared`: what a finished run's tasks had in common, for those that are added to it."""
        self.backbone, self.prompts, self.options = backbone, prompts, options
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self.encoder = METHODS[options.method].encoder(*starts).to(backbone.device)
        self.encoder.load_state_dict({**self.encoder.state_dict(), **(shared or {})})
        self.optimizer = adamw(self.encoder.parameters(), options)
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.encoder.named_parameters()}
        self.ema: Mapping[str, Tensor] = made(self.encoder)
        self.steps = 0
        self._made: dict[str, Tensor] = {}
        self._leaves: dict[str, Tensor] = {}

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return count(self.encoder)

    @property
    def leaves(self) -> list[Tensor]:
        """The vectors themselves, cut off from the encoder: it is gone back through once a step."""
        return list(self._leaves.values())

    def vectors(self) -> list[Vectors]:
        """What the encoder makes for each task now."""
        self.optimizer.zero_grad(set_to_none=True)
        self._made = flat(self.encoder())
        self._leaves = {name: tensor.detach().requires_grad_() for name, tensor in self._made.items()}
        return [Vectors(**leaves) for leaves in by_task(self._leaves, len(self.prompts))]

    def backward_and_clip(self) -> float:
        """Go back through the encoder, and clip the gradient of its parameters."""
        torch.autograd.backward(list(self._made.values()), [leaf.grad for leaf in self._leaves.values()])
        return float(torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), self.options.clip))

    def optimizer_step(self, lr_scale: float) -> None:
        """Move the encoder's parameters, and the average of the vectors that it makes."""
        take_step(self.optimizer, self.options, lr_scale)
        self.steps += 1
        self.ema = averaged(self.ema, made(self.encoder), self.steps)

    @contextmanager
    def evaluating(self) -> Iterator[list[Prompt]]:
        """The prompts with the averaged vectors."""
        yield self.to_prompts(self.ema)

    def to_prompts(self, tensors: Mapping[str, Tensor], run_id: str = "") -> list[Prompt]:
        """Every task's prompt as it is served with these vectors; all that was trained is counted for each."""
        model, method, trained = self.backbone, self.options.method, self.trained_parameters

        def soft(vectors: Mapping[str, Tensor]) -> SoftTokens:
            arrays = {name: tensor.numpy() for name, tensor in vectors.items()}
            return SoftTokens(arrays, model.name, model.fingerprint, method, run_id, trained)

        parts = zip(self.prompts, by_task(tensors, len(self.prompts)), strict=True)
        return [prompt.replace(soft=soft(vectors)) for prompt, vectors in parts]

    def state(self) -> dict[str, Tensor]:
        """The encoder's parameters and buffers."""
        return dict(self.encoder.state_dict())

    def restore(self, state: Mapping[str, Tensor], ema: Mapping[str, Tensor], steps: int) -> None:
        """As `state` gave it."""
        self.encoder.load_state_dict(dict(state))
        self.ema, self.steps = dict(ema), steps


def adamw(parameters: Iterable[Tensor], options: TuneOptions) -> torch.optim.AdamW:
    """The optimizer of every learner."""
    return torch.optim.AdamW(list(parameters), lr=options.rate, weight_decay=options.weight_decay, fused=False)


def take_step(optimizer: torch.optim.Optimizer, options: TuneOptions, lr_scale: float) -> None:
    """A step at `lr_scale` of the peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = options.rate * lr_scale
    optimizer.step()


def lr_scale(step: int, steps: int, warmup: float) -> float:
    """The share of the peak learning rate at `step`: a linear warm-up, then half a cosine down to a tenth."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    along = (step - rising) / max(1, steps - rising)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * along))


def averaged(ema: Mapping[str, Tensor], now: Mapping[str, Tensor], steps: int) -> dict[str, Tensor]:
    """The average after `steps`; a short run forgets its start sooner."""
    weight = max(1 - EMA_DECAY, 1 / (0.3 * steps + 1))
    return {name: ema[name].lerp(tensor, weight) for name, tensor in now.items()}


def check_finite(loss: float, norm: float, step: int) -> None:
    """Raises DivergedError, before anything is moved, where the loss or the gradient's norm is not finite."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise DivergedError(f"the loss is {loss} and the gradient's norm {norm} at step {step}")
