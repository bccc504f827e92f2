"""What learns: an encoder, its optimiser, and the running average of what it makes. Knows no model and no rows."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foreword.backbone import Vectors
from foreword.tuning.methods import METHODS, Start, by_task, count, flat, made
from foreword.tuning.options import TuneOptions
from foreword.tuning.step import newest


class Learner:
    """The encoder of one task's prompt, or of several's, on its way.

    A step is `vectors`, a backward pass to them, then `norm` and `move`.
    """

    def __init__(
        self, options: TuneOptions, starts: Sequence[Start], device: torch.device,
        shared: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """`shared`: what a finished run's tasks had in common, for those that are added to it."""
        self.options, self.tasks = options, len(starts)
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self.encoder = METHODS[options.method].encoder(*starts).to(device)
        self.encoder.load_state_dict({**self.encoder.state_dict(), **(shared or {})})
        self.optimiser = torch.optim.AdamW(
            self.encoder.parameters(), lr=options.rate, weight_decay=options.weight_decay, fused=False
        )
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.encoder.named_parameters()}
        self.average: Mapping[str, Tensor] = made(self.encoder)
        self.steps = 0

    @property
    def trained_parameters(self) -> int:
        """How many numbers are trained."""
        return count(self.encoder)

    def vectors(self) -> list[Vectors]:
        """What the encoder makes for each task now, as leaves: gradients gather here, over a step's passes."""
        self.optimiser.zero_grad(set_to_none=True)
        self._made = flat(self.encoder())
        self._leaves = {name: tensor.detach().requires_grad_() for name, tensor in self._made.items()}
        return [Vectors(**leaves) for leaves in by_task(self._leaves, self.tasks)]

    def norm(self) -> float:
        """Hand the gathered gradients to the encoder's parameters; their norm, before it is cut to `clip`."""
        torch.autograd.backward(list(self._made.values()), [leaf.grad for leaf in self._leaves.values()])
        return float(torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), self.options.clip))

    def move(self, share: float) -> None:
        """A step of the optimiser, at `share` of the peak learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate * share
        self.optimiser.step()
        self.steps += 1
        weight = newest(self.steps)
        self.average = {name: self.average[name].lerp(now, weight) for name, now in made(self.encoder).items()}
