"""How a soft prompt is learned, from top to bottom. Knows encoders, rows and the backbone's log-probabilities.

A step reads a batch of rows behind their shared front, takes the mean loss over the answers' tokens, and moves the
encoder's parameters. The backbone never changes.
"""

import contextlib
import json
import math
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreword.backbone import Backbone, Example
from foreword.backbone.encode import Ids, shared_front
from foreword.errors import ForewordError
from foreword.files import write_atomic
from foreword.prompts import Output, Prompt, SoftTokens
from foreword.tasks import Row, Task
from foreword.tuning import checkpoint
from foreword.tuning.curves import CurvePoint
from foreword.tuning.encoders import METHODS, count, virtual_tokens
from foreword.tuning.lock import locked
from foreword.tuning.objective import mean_loss
from foreword.tuning.options import TuneOptions
from foreword.tuning.start import soften, start_vectors


@dataclass(frozen=True)
class Progress:
    """Where a run stands, told after every step."""

    step: int
    steps: int
    loss: float
    dev: float | None
    """Last measurement on dev."""
    rows_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Run:
    """A finished run."""

    prompt: Prompt
    """The best version by dev, its vectors looked up from the encoder."""
    curve: tuple[CurvePoint, ...]
    options: TuneOptions
    folder: Path
    steps: int
    seconds: float
    trained_parameters: int


@dataclass(frozen=True)
class _Data:
    """Training rows, encoded once."""

    front: Ids
    examples: list[Example]
    right: list[int]
    """Which of an example's answers is the target."""

    def batch(self, step: int, size: int, seed: int) -> tuple[list[Example], list[int]]:
        """The rows of a step: a new order every epoch, known from the seed alone, as resuming needs."""
        n = len(self.examples)
        places = range(step * size, (step + 1) * size)
        rows = [_order(n, seed, place // n)[place % n] for place in places]
        return [self.examples[row] for row in rows], [self.right[row] for row in rows]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}-{epoch}").sample(range(n), n)


def tune(
    backbone: Backbone,
    task: Task,
    start: Prompt,
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Run:
    """Learn a soft prompt for `task` in front of `start`, and keep the version that does best on dev.

    `settings` are the fields of `TuneOptions`: method, tokens, steps and so on. The run lives in `folder` (`runs/ID` by
    default): `checkpoint.safetensors`, `curves.jsonl`, `run.json`. With `resume` it goes on from its checkpoint exactly
    as if it had not stopped. Ctrl-C saves before it ends.
    Raises ForewordError when the loss is not finite any more; the last good checkpoint stays.
    """
    began = time.perf_counter()
    options = TuneOptions.of(settings)
    run_id = uuid.uuid4().hex[:12]
    place = Path(folder) if folder is not None else Path("runs") / f"{task.name}-{options.method}-{run_id}"
    fitting = start.answering(task.choices).replace(
        output=Output(choices=task.choices)
    )  # a matched prior is the start's
    prompt = soften(fitting, options.tokens, f"{task.name}-{options.method}"[:100])
    identity = _identity(backbone, task, prompt, options)
    with locked(place):
        saved = checkpoint.read(place / "checkpoint.safetensors") if resume else None
        if saved is None and (place / "checkpoint.safetensors").exists():
            raise ForewordError(f"{str(place)!r} holds a run already; add --resume to go on, or choose another folder")
        if saved is not None and saved.settings != identity:
            changed = [name for name in identity if identity[name] != saved.settings.get(name)]
            raise ForewordError(
                f"{str(place)!r} was started with other settings: {changed}; give the same, or a new folder"
            )
        write_atomic(place / "run.json", json.dumps({"id": run_id, **identity}, indent=2).encode())
        data = _encode(backbone, prompt, task, options.objective)
        vectors = start_vectors(backbone, prompt, options.init, start, options.init_text, options.seed)
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            encoder = METHODS[options.method].encoder(vectors).to(backbone.device)
        loop = _Loop(backbone, task, prompt, options, identity, data, encoder, place, began)
        if saved is not None:
            loop.restore(saved)
        loop.run(on_step)
    return Run(
        prompt=loop.with_vectors(loop.best, run_id).replace(labelled_rows=len(task.train)),
        curve=tuple(loop.curve),
        options=options,
        folder=place,
        steps=loop.step,
        seconds=loop.seconds,
        trained_parameters=count(encoder),
    )


class _Loop:
    """The state of a run between two steps, and what a step does to it."""

    def __init__(
        self, backbone: Backbone, task: Task, prompt: Prompt, options: TuneOptions, settings: dict[str, Any],
        data: _Data, encoder: nn.Module, folder: Path, began: float,
    ) -> None:  # fmt: skip
        self.backbone, self.prompt, self.options, self.settings = backbone, prompt, options, settings
        self.data, self.encoder, self.folder, self.began = data, encoder, folder, began
        self.task, self.dev = task, task.dev[: options.dev_rows]
        self.optimiser = torch.optim.AdamW(
            encoder.parameters(), lr=options.rate, weight_decay=options.weight_decay, fused=False
        )
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in encoder.named_parameters()}
        self.step = self.best_step = 0
        self.best = virtual_tokens(encoder)
        self.curve: list[CurvePoint] = []
        self.losses: list[float] = []  # since the last measurement
        self.before = 0.0  # seconds of the parts of this run that were interrupted

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def restore(self, saved: checkpoint.State) -> None:
        self.encoder.load_state_dict(dict(saved.encoder))
        checkpoint.restore_optimiser(self.optimiser, self.names, saved.optimiser)
        self.step, self.best_step, self.best = saved.step, saved.best_step, saved.best
        self.curve, self.losses = list(saved.curve), list(saved.losses)
        self.before = self.curve[-1].seconds if self.curve else 0.0

    def run(self, on_step: Callable[[Progress], None] | None) -> None:
        if not self.curve:
            self._measure()
        first, ran = self.step, time.perf_counter()
        with _interrupts() as interrupted:
            while self.step < self.options.steps and not self._stuck():
                self.losses.append(self._step())
                if self.step % self.options.eval_every == 0 or self.step == self.options.steps:
                    self._measure()
                if on_step:
                    per_step = (time.perf_counter() - ran) / (self.step - first)
                    left = (self.options.steps - self.step) * per_step
                    dev = self.curve[-1].dev
                    loss = self.losses[-1] if self.losses else self.curve[-1].loss or math.nan
                    on_step(Progress(self.step, self.options.steps, loss, dev, self.options.batch / per_step, left))
                if interrupted():
                    self._save()
                    raise KeyboardInterrupt

    def _step(self) -> float:
        examples, right = self.data.batch(self.step, self.options.batch, self.options.seed)
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.rate * schedule(self.step, self.options.steps, self.options.warmup)
        virtual = self.encoder()
        loss = mean_loss(self.backbone.log_probs(examples, self.data.front, virtual), examples, right)
        if not math.isfinite(loss.item()):
            raise ForewordError(
                f"the loss is {loss.item()} at step {self.step}; the checkpoint of step {self.saved_step} in "
                f"{str(self.folder)!r} is kept. Lower the learning rate: --lr {self.options.rate / 3:.2g}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), self.options.clip)
        self.optimiser.step()
        self.step += 1
        return loss.item()

    @property
    def saved_step(self) -> int:
        return self.curve[-1].step if self.curve else 0

    def _measure(self) -> None:
        """Measure dev, keep the best, write a checkpoint."""
        virtual = virtual_tokens(self.encoder)
        if not torch.isfinite(virtual).all():
            raise ForewordError(
                f"the virtual tokens are not finite at step {self.step}; lower the learning rate with --lr"
            )
        dev = dev_score(self.backbone, self.task, self.with_vectors(virtual), self.dev) if self.dev else None
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        self.losses = []
        best = max((p.dev for p in self.curve if p.dev is not None), default=-math.inf)
        if dev is None or dev > best:
            self.best, self.best_step = virtual, self.step
        self.curve.append(CurvePoint(self.step, self.step * self.options.batch, loss, dev, self.seconds))
        self._save()

    def with_vectors(self, virtual: Tensor, run_id: str = "") -> Prompt:
        """The prompt as it would be served with these virtual tokens."""
        name, fingerprint = self.backbone.name, self.backbone.fingerprint
        soft = SoftTokens(virtual.numpy(), name, fingerprint, self.options.method, run_id, count(self.encoder))
        return self.prompt.replace(soft=soft)

    def _stuck(self) -> bool:
        """No better on dev for `patience` measurements."""
        return (self.step - self.best_step) >= self.options.patience * self.options.eval_every

    def _save(self) -> None:
        state = checkpoint.State(
            encoder=self.encoder.state_dict(),
            optimiser=checkpoint.optimiser_tensors(self.optimiser, self.names),
            best=self.best,
            step=self.step,
            best_step=self.best_step,
            curve=tuple(self.curve),
            losses=tuple(self.losses),
            settings=self.settings,
        )
        checkpoint.write(self.folder / "checkpoint.safetensors", state)
        lines = "".join(json.dumps(asdict(point)) + "\n" for point in self.curve)
        write_atomic(self.folder / "curves.jsonl", lines.encode())


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine down to a tenth."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    along = (step - rising) / max(1, steps - rising)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * along))


def dev_score(backbone: Backbone, task: Task, prompt: Prompt, rows: tuple[Row, ...]) -> float:
    """The task's metric over `rows`, in their units of 0 to 1."""
    answers = backbone.answer(prompt, [prompt.take(row.inputs, row.id) for row in rows])
    scores = task.score([answer.text for answer in answers], rows)
    return sum(scores) / len(scores)


def _encode(backbone: Backbone, prompt: Prompt, task: Task, objective: str) -> _Data:
    """Every training row as tokens, the front that all of them share taken off."""
    end = (backbone.tokenizer.eos_token_id,) if task.choices is None else ()
    whole: list[Example] = []
    right: list[int] = []
    for row in task.train:
        answers = task.choices if objective == "choices" and task.choices else (row.target,)
        inputs = prompt.take(row.inputs, row.id)
        try:
            example = backbone.example(prompt, inputs, answers)
        except ForewordError as error:
            raise ForewordError(f"training row {row.id!r}: {error}") from error
        whole.append(replace(example, answers=tuple((*answer, *end) for answer in example.answers)))
        right.append(answers.index(row.target))
    F = shared_front([example.question for example in whole])
    examples = [replace(example, question=example.question[F:]) for example in whole]
    return _Data(whole[0].question[:F], examples, right)


def _identity(backbone: Backbone, task: Task, prompt: Prompt, options: TuneOptions) -> dict[str, Any]:
    return {
        "options": asdict(options),
        "task": task.name,
        "data": task.data_hash,
        "prompt": prompt.digest,
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "dtype": str(backbone.dtype).removeprefix("torch."),
    }


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until a step is whole; yields a function that tells whether it was pressed."""
    if threading.current_thread() is not threading.main_thread():  # only there can Python take signals
        yield lambda: False
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
