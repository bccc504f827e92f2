"""How a soft prompt is learned, from top to bottom. Knows encoders, rows and the backbone's log-probabilities.

A step reads a batch of rows behind their shared front, takes the mean loss over the answers' tokens, and moves the
encoder's parameters. The backbone never changes.
"""

import contextlib
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.files import write_atomic
from foreword.prompts import Output, Prompt
from foreword.tasks import Task
from foreword.tuning import checkpoint
from foreword.tuning.accumulate import Accumulator
from foreword.tuning.curves import CurvePoint
from foreword.tuning.diagnose import diagnose
from foreword.tuning.drift import moved, norm_ratio, real_norm
from foreword.tuning.environment import environment
from foreword.tuning.learner import Learner
from foreword.tuning.lock import locked
from foreword.tuning.methods import METHODS
from foreword.tuning.options import TuneOptions
from foreword.tuning.record import write_run_file
from foreword.tuning.rows import TrainingRows, encode_rows
from foreword.tuning.served import dev_score, served
from foreword.tuning.start import begin, soften
from foreword.tuning.step import DivergedError, check_finite, schedule


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
    notes: tuple[str, ...] = ()
    """What the run had to do for want of memory."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may have gone wrong, each with what to try."""
        return self.notes + diagnose(self.curve, self.options)


def tune(
    backbone: Backbone,
    task: Task,
    start: Prompt,
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    command: str | None = None,
    **settings: Any,
) -> Run:
    """Learn a soft prompt for `task` in front of `start`, and keep the version that does best on dev.

    `settings` are the fields of `TuneOptions`: method, tokens, steps and so on. The run lives in `folder` (`runs/ID` by
    default): `checkpoint.safetensors`, `curves.jsonl`, `run.json`. With `resume` it goes on from its checkpoint exactly
    as if it had not stopped, or, given more steps, beyond its end. Ctrl-C saves before it ends. `command`, the command
    line that asked for it, is written down beside its settings.
    Raises ForewordError when the loss is not finite any more; the last good checkpoint stays.
    """
    began = time.perf_counter()
    options = TuneOptions.of(settings)
    plain = start.answering(task.choices).replace(output=Output(choices=task.choices))  # a prior fits one prompt only
    method = METHODS[options.method]
    prompt = soften(plain, options.tokens, soft_name(task.name, options.method), method.learns)
    options = replace(options, tokens=prompt.virtual_tokens, init=options.init or ("prompt" if start.soft else "text"))
    identity = _identity(backbone, task, start, options)
    run_id = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    place = Path(folder) if folder is not None else Path("runs") / f"{prompt.name}-{run_id}"
    path = place / "checkpoint.safetensors"
    if resume and not path.is_file():
        raise ForewordError(f"no checkpoint {str(path)!r} to resume from; start without --resume")
    with locked(place):
        saved = checkpoint.read(path) if resume else None
        if saved is None and path.exists():
            raise ForewordError(f"{str(place)!r} holds a run already; add --resume to go on, or choose another folder")
        if saved is not None:
            _check_same(saved.settings, identity, place)
        write_run_file(place, run_id, identity, environment(backbone), command, resumed=saved is not None)
        rows = encode_rows(backbone, prompt, task, options.objective)
        origin = begin(backbone, prompt, method.learns, options, start, task.train, rows.longest)
        learner = Learner(options, origin, backbone.device)
        loop = _Loop(backbone, task, prompt, options, identity, rows, learner, place, began)
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
        trained_parameters=learner.trained_parameters,
        notes=tuple(loop.accumulator.notes),
    )


def soft_name(task: str, method: str) -> str:
    """What the prompt of a run is called in the table: the task's name as far as prompt names allow, and the method."""
    return f"{task.lower()[: 98 - len(method)].strip('._-')}-{method}"


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], place: Path) -> None:
    """A run goes on only with what it was started with, or with more steps."""
    old, new = ({**settings, **settings["options"], "options": None} for settings in (before, now))
    if new["steps"] > old.get("steps", 0):
        old["steps"] = new["steps"]
    changed = [f"{name} {old.get(name)!r}, now {new[name]!r}" for name in new if new[name] != old.get(name)]
    if changed:
        raise ForewordError(
            f"{str(place)!r} was started with other settings ({'; '.join(changed)}); give the same, or a new folder"
        )


class _Loop:
    """The state of a run between two steps, and what a step does to it."""

    def __init__(
        self, backbone: Backbone, task: Task, prompt: Prompt, options: TuneOptions, settings: dict[str, Any],
        rows: TrainingRows, learner: Learner, folder: Path, began: float,
    ) -> None:  # fmt: skip
        self.backbone, self.prompt, self.options, self.settings = backbone, prompt, options, settings
        self.rows, self.learner, self.folder, self.began = rows, learner, folder, began
        self.accumulator = Accumulator(backbone, rows)
        self.task, self.dev = task, task.dev[: options.dev_rows]
        self.step = self.best_step = 0
        self.best = self.start = learner.average
        self.real_norm = real_norm(backbone)
        self.curve: list[CurvePoint] = []
        self.losses: list[float] = []  # since the last measurement
        self.gradients: list[float] = []  # their norms, of the same steps
        self.before = 0.0  # seconds of the parts of this run that were interrupted

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def restore(self, saved: checkpoint.State) -> None:
        self.learner.encoder.load_state_dict(dict(saved.encoder))
        checkpoint.restore_optimiser(self.learner.optimiser, self.learner.names, saved.optimiser)
        self.learner.average, self.learner.steps = dict(saved.average), saved.step
        self.step, self.best_step = saved.step, saved.best_step
        self.best = dict(saved.best)
        self.curve, self.losses, self.gradients = list(saved.curve), list(saved.losses), list(saved.gradients)
        self.before = self.curve[-1].seconds if self.curve else 0.0

    def run(self, on_step: Callable[[Progress], None] | None) -> None:
        if self.curve:
            self._write_curve()  # a kill may have come between the checkpoint and it
        else:
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
        examples, right = self.rows.batch(self.step, self.options.batch, self.options.seed)
        loss = self.accumulator.loss(self.learner.vectors(), examples, right)
        norm = self.learner.norm()
        try:
            check_finite(loss, norm, self.step)
        except DivergedError as error:
            raise ForewordError(
                f"{error}; the checkpoint of step {self.saved_step} in {str(self.folder)!r} is kept. Lower the "
                f"learning rate: --lr {self.options.rate / 3:.2g}"
            ) from error
        self.gradients.append(norm)
        self.learner.move(schedule(self.step, self.options.steps, self.options.warmup))
        self.step += 1
        return loss

    @property
    def saved_step(self) -> int:
        return self.curve[-1].step if self.curve else 0

    def _measure(self) -> None:
        """Measure dev, keep the best, write a checkpoint. What is measured is the running average."""
        if not all(torch.isfinite(tensor).all() for tensor in self.learner.average.values()):
            raise ForewordError(
                f"the virtual tokens are not finite at step {self.step}; lower the learning rate with --lr"
            )
        dev = (
            dev_score(self.backbone, self.task, self.with_vectors(self.learner.average), self.dev) if self.dev else None
        )
        best = max((p.dev for p in self.curve if p.dev is not None), default=-math.inf)
        if dev is None or dev > best:
            self.best, self.best_step = self.learner.average, self.step
        self.curve.append(self._point(dev))
        self.losses, self.gradients = [], []
        self._save()

    def _point(self, dev: float | None) -> CurvePoint:
        return CurvePoint(
            step=self.step,
            rows=self.step * self.options.batch,
            loss=_mean(self.losses),
            dev=dev,
            seconds=self.seconds,
            dev_rows=len(self.dev) or None,
            norm_ratio=norm_ratio(self.learner.average, self.start, self.real_norm),
            moved=moved(self.learner.average, self.start),
            gradient=_mean(self.gradients),
            clipped=_mean([norm > self.options.clip for norm in self.gradients]),
        )

    def with_vectors(self, tensors: Mapping[str, Tensor], run_id: str = "") -> Prompt:
        """The prompt as it would be served with these vectors."""
        trained = self.learner.trained_parameters
        return served(self.backbone, self.prompt, tensors, self.options.method, trained, run_id)

    def _stuck(self) -> bool:
        """No better on dev for `patience` measurements."""
        return (self.step - self.best_step) >= self.options.patience * self.options.eval_every

    def _save(self) -> None:
        state = checkpoint.State(
            encoder=self.learner.encoder.state_dict(),
            optimiser=checkpoint.optimiser_tensors(self.learner.optimiser, self.learner.names),
            average=self.learner.average,
            best=self.best,
            step=self.step,
            best_step=self.best_step,
            curve=tuple(self.curve),
            losses=tuple(self.losses),
            gradients=tuple(self.gradients),
            settings=self.settings,
        )
        checkpoint.write(self.folder / "checkpoint.safetensors", state)
        self._write_curve()

    def _write_curve(self) -> None:
        lines = "".join(json.dumps(asdict(point)) + "\n" for point in self.curve)
        write_atomic(self.folder / "curves.jsonl", lines.encode())


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _identity(backbone: Backbone, task: Task, start: Prompt, options: TuneOptions) -> dict[str, Any]:
    return {
        "options": asdict(options),
        "task": task.name,
        "data": task.data_hash,
        "start": start.digest,
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
