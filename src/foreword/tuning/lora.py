"""LoRA (Hu 2021) through PEFT, a second learner of the one loop: what a user gives up by keeping the model frozen.

It learns as a soft prompt does by default (rows, objective, schedule, average, the best on dev kept), so that the
difference between the two is what is trained and nothing else. Knows no test rows.
"""

import copy
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreword.backbone import NO_VECTORS, Backbone, LanguageModel, Vectors
from foreword.errors import ForewordError, UsageError
from foreword.listen import SILENT, Listener
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning.curves import CurvePoint
from foreword.tuning.folder import opened
from foreword.tuning.learner import DivergedError, adamw, averaged, take_step
from foreword.tuning.loop import Training, identity_of
from foreword.tuning.options import TuneOptions
from foreword.tuning.setup import TaskSetup, soft_name, text_of

LEARNING_RATE = 5e-4


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear layers but the head; alpha is twice the rank, without dropout."""

    rank: int = 16
    steps: int = TuneOptions.steps

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise UsageError(f"the rank of LoRA must be a whole number of at least 1, not {self.rank!r}")
        _ = self.options  # refuses steps that cannot be

    @property
    def options(self) -> TuneOptions:
        """Settings of the run: those of soft prompts, with a learning rate that suits LoRA."""
        return TuneOptions(steps=self.steps, learning_rate=LEARNING_RATE)

    def check(self, model: LanguageModel) -> Backbone:
        """Raise, before any work, where LoRA cannot be trained: UsageError on a remote model, or PEFT is missing."""
        if not isinstance(model, Backbone):
            raise UsageError(f"LoRA changes weights, and those of {model.name!r} are remote; give a local backbone")
        _peft()
        return model


@dataclass(frozen=True)
class Adapted:
    """A finished run."""

    backbone: Backbone
    """The adapted model; it shares the frozen weights with the one that was given."""
    prompt: Prompt
    """The text that it was trained behind, under the strategy's name."""
    curve: tuple[CurvePoint, ...]
    trained_parameters: int


def adapt(
    backbone: Backbone, task: Task, start: Prompt, lora: Lora, listener: Listener = SILENT, *,
    folder: Path | None = None, resume: bool = False,
) -> Adapted:  # fmt: skip
    """Train `lora` behind the text of `start`, and keep the version that does best on dev, the last one without dev.

    `backbone` is never changed, however this ends. With a `folder` the run lives there as one of `tune` does, and goes
    on from its checkpoint with `resume`. Raises ForewordError when PEFT is missing or the loss is not finite.
    """
    began, options = time.perf_counter(), lora.options
    prompt = text_of(task, start).replace(name=soft_name(task.name, "lora"), labelled_rows=len(task.train))
    identity = {**identity_of(backbone, [task], [start], options), "lora": {"rank": lora.rank}}
    with opened(folder, identity, backbone, resume=resume) if folder else nullcontext() as kept:
        setup = TaskSetup.of(backbone, task, start, prompt, options)
        learner = LoraLearner(backbone, prompt, lora.rank, options)
        training = Training(learner, [setup], options, f"{prompt.name}: training", kept, listener, began)
        try:
            training.run()
        except DivergedError as error:
            raise ForewordError(f"LoRA: {error}; compute in float32, or leave LoRA out") from error
        learner.finish(training.best)
    return Adapted(learner.backbone, prompt, tuple(training.curve), learner.trained_parameters)


class LoraLearner:
    """Adapters inside a twin of the backbone."""

    def __init__(self, backbone: Backbone, prompt: Prompt, rank: int, options: TuneOptions) -> None:
        self.prompt, self.options, self.steps = prompt, options, 0
        self.backbone, self._weights = with_adapters(backbone, rank, options.seed)
        self.optimizer = adamw(self.leaves, options)
        self.names: dict[Tensor, str] = {weight: name for name, weight in self._weights.items()}
        self.ema: Mapping[str, Tensor] = {name: weight.clone() for name, weight in self.state().items()}

    @property
    def trained_parameters(self) -> int:
        """How many numbers the adapters have."""
        return sum(weight.numel() for weight in self.leaves)

    @property
    def leaves(self) -> list[torch.nn.Parameter]:
        """The adapters' weights."""
        return list(self._weights.values())

    def vectors(self) -> list[Vectors]:
        """None: rows are read behind text."""
        self.optimizer.zero_grad(set_to_none=True)
        return [NO_VECTORS]

    def backward_and_clip(self) -> float:
        """The gradients are where they belong; clip them."""
        return float(torch.nn.utils.clip_grad_norm_(self.leaves, self.options.clip))

    def optimizer_step(self, lr_scale: float) -> None:
        """Move the adapters and their average."""
        take_step(self.optimizer, self.options, lr_scale)
        self.steps += 1
        self.ema = averaged(self.ema, self.state(), self.steps)

    @contextmanager
    def evaluating(self) -> Iterator[list[Prompt]]:
        """The text, with the averaged weights in the place of the adapters' own."""
        own = self.state()
        self._hold(self.ema)
        try:
            yield [self.prompt]
        finally:
            self._hold(own)

    def state(self) -> dict[str, Tensor]:
        """The adapters' weights."""
        return {name: weight.data for name, weight in self._weights.items()}

    def restore(self, state: Mapping[str, Tensor], ema: Mapping[str, Tensor], steps: int) -> None:
        """As `state` gave it."""
        self._hold({name: tensor.clone() for name, tensor in state.items()})
        self.ema = {name: tensor.to(self.backbone.device) for name, tensor in ema.items()}
        self.steps = steps

    def finish(self, best: Mapping[str, Tensor]) -> None:
        """Leave these weights in the adapted model, which takes no gradients any more."""
        self._hold(best)
        for weight in self.leaves:
            weight.requires_grad_(False).grad = None

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.data = tensors[name].to(weight.device)
        self.backbone.clear_prefix_cache()  # computed with other weights


def with_adapters(backbone: Backbone, rank: int, seed: int) -> tuple[Backbone, dict[str, torch.nn.Parameter]]:
    """A twin of `backbone` with adapters that begin by adding nothing, and their weights by name, fp32 or better.

    PEFT puts its modules into the model that it is given. The twin has modules of its own over the very same weight
    tensors: it costs no more memory than the adapters, and since the given model is not touched, there is nothing to
    undo after an error or Ctrl-C. Only adapters take gradients; they are never merged into the weights.
    """
    shared = {id(parameter): parameter for parameter in backbone.model.parameters()}  # deepcopy takes these as done
    twin = Backbone(copy.deepcopy(backbone.model, shared), backbone.tokenizer, backbone.name)
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.simplefilter("ignore")  # PEFT says that it transposes GPT-2's weights, as it should
        peft.get_peft_model(twin.model, config)  # in place; the wrapper that it returns is for its own save and load
    return twin, {name: weight for name, weight in twin.model.named_parameters() if weight.requires_grad}


def _peft() -> Any:
    """The optional dependency."""
    try:
        with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
            warnings.simplefilter("ignore")
            import peft
    except ImportError as error:
        raise ForewordError("LoRA needs PEFT, which is not installed: pip install 'foreword[peft]'") from error
    return peft
