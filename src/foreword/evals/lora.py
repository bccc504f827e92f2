"""LoRA through PEFT (Hu 2021) as a strategy: what a user gives up by keeping the model frozen. Knows no test rows.

Trained as a soft prompt is by default (rows, batches, objective, schedule, running average, the best on dev kept), so
that the difference between the two is what is trained and nothing else.
"""

import copy
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from foreword.backbone import Backbone, Example, LanguageModel
from foreword.backbone.vectors import NONE
from foreword.errors import ForewordError, UsageError
from foreword.listen import SILENT, Listener
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning import CurvePoint, TuneOptions
from foreword.tuning.accumulate import Accumulator
from foreword.tuning.curves import keeps, peak
from foreword.tuning.lesson import soft_name
from foreword.tuning.rows import encode_rows
from foreword.tuning.served import dev_score
from foreword.tuning.step import DivergedError, check_finite, newest, schedule

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


def adapt(backbone: Backbone, task: Task, start: Prompt, lora: Lora, listener: Listener = SILENT) -> Adapted:
    """Train `lora` behind the text of `start`, and keep the version that does best on dev, the last one without dev.

    `backbone` is never changed, however this ends. Raises ForewordError when PEFT is missing or the loss is not finite.
    """
    began, options, dev = time.perf_counter(), lora.options, task.dev[: lora.options.dev_rows]
    plain = start.answering(task.choices).without_prior()  # a prior fits one model only
    prompt = plain.replace(name=soft_name(task.name, "lora"), labelled_rows=len(task.train))
    rows = encode_rows(backbone, prompt, task, options.objective)
    model, weights = with_adapters(backbone, lora.rank, options.seed)
    optimiser = torch.optim.AdamW(weights, lr=options.rate, weight_decay=options.weight_decay, fused=False)
    accumulator = Accumulator(model, [rows])
    average = [w.detach().clone() for w in weights]
    best = average
    curve: list[CurvePoint] = []
    losses: list[float] = []
    for step in range(options.steps + 1):
        if step % options.eval_every == 0 or step == options.steps:
            with _holding(weights, average):
                model.clear_prefix_cache()  # computed with weights of an earlier step
                score = dev_score(model, task, prompt, dev) if dev else None
            loss = sum(losses) / len(losses) if losses else None
            if keeps(score, curve, len(dev)):
                best = [w.clone() for w in average]
            curve.append(CurvePoint(step, rows.seen(step, options.batch), loss, score, time.perf_counter() - began))
            losses = []
        if options.ended(step, peak(curve)):
            break
        batch = rows.batch(step, options.batch, options.seed)
        try:
            losses.append(_step(optimiser, accumulator, batch, weights, options, step))
        except DivergedError as error:
            raise ForewordError(f"LoRA: {error}; compute in float32, or leave LoRA out") from error
        for mean, weight in zip(average, weights, strict=True):
            mean.lerp_(weight.detach(), newest(step + 1))
        listener.stage(f"{prompt.name}: training", step + 1, options.steps)
    for weight, kept in zip(weights, best, strict=True):
        weight.data = kept
        weight.requires_grad_(False).grad = None
    model.clear_prefix_cache()
    return Adapted(model, prompt, tuple(curve), sum(weight.numel() for weight in weights))


@contextmanager
def _holding(weights: list[torch.nn.Parameter], values: list[torch.Tensor]) -> Iterator[None]:
    """Measure with `values` in the place of the weights."""
    own = [weight.data for weight in weights]
    for weight, value in zip(weights, values, strict=True):
        weight.data = value
    try:
        yield
    finally:
        for weight, value in zip(weights, own, strict=True):
            weight.data = value


def _step(
    optimiser: torch.optim.Optimizer, accumulator: Accumulator, batch: tuple[list[Example], list[int]],
    weights: list[torch.nn.Parameter], options: TuneOptions, step: int,
) -> float:  # fmt: skip
    """Move the weights once and return the loss, nats. Raises DivergedError before anything is moved."""
    optimiser.zero_grad(set_to_none=True)
    loss = accumulator.loss([NONE], [batch], leaves=weights)
    norm = torch.nn.utils.clip_grad_norm_(weights, options.clip).item()
    check_finite(loss, norm, step)
    for group in optimiser.param_groups:
        group["lr"] = options.rate * schedule(step, options.steps, options.warmup)
    optimiser.step()
    return loss


def with_adapters(backbone: Backbone, rank: int, seed: int) -> tuple[Backbone, list[torch.nn.Parameter]]:
    """A twin of `backbone` with adapters that begin by adding nothing, and their weights, fp32 or better.

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
    return twin, [parameter for parameter in twin.model.parameters() if parameter.requires_grad]


def _peft() -> Any:
    """The optional dependency."""
    try:
        with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
            warnings.simplefilter("ignore")
            import peft
    except ImportError as error:
        raise ForewordError("LoRA needs PEFT, which is not installed: pip install 'foreword[peft]'") from error
    return peft
