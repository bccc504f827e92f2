"""How a soft prompt is learned, from top to bottom. Knows encoders, rows and the backbone's log-probabilities.

A step reads a batch of rows behind their shared prefix, takes the mean loss over the answers' tokens, and moves the
encoder's parameters. The backbone never changes. Tasks tuned together share an encoder and every step.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.files import locked, write_atomic
from foreword.interrupts import interrupts
from foreword.listen import Progress
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning import checkpoint
from foreword.tuning.accumulate import Accumulator
from foreword.tuning.curves import CurvePoint, keeps, peak
from foreword.tuning.drift import moved, norm_ratio, real_norm
from foreword.tuning.environment import environment
from foreword.tuning.finished import Finished, id_of, read_finished
from foreword.tuning.learner import Learner
from foreword.tuning.lesson import Lesson, prepare, shares
from foreword.tuning.methods import METHODS, by_task
from foreword.tuning.options import TuneOptions
from foreword.tuning.record import FILES, write_run_file
from foreword.tuning.rows import COMPETITORS, encode_rows
from foreword.tuning.run import Run
from foreword.tuning.served import dev_score, served
from foreword.tuning.start import begin
from foreword.tuning.step import DivergedError, check_finite, schedule

SAVE_SECONDS = 120
"""Of work that is lost at most; every measurement is saved besides."""


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
    """Learn a soft prompt for `task` in front of `start`, and keep the version that does best on dev: the latest of
    those that dev cannot tell apart.

    `settings` are the fields of `TuneOptions`: method, tokens, steps and so on. The run lives in `folder` (`runs/ID` by
    default): `checkpoint.safetensors`, `curves.jsonl`, `run.json`. With `resume` it goes on from its checkpoint exactly
    as if it had not stopped, or, given more steps, beyond its end. Ctrl-C saves before it ends. `command`, the command
    line that asked for it, is written down beside its settings.
    Raises ForewordError when the loss is not finite any more; the last good checkpoint stays.
    """
    [run] = tune_many(
        backbone, [task], [start], folder=folder, resume=resume, on_step=on_step, command=command, **settings
    )
    return run


def tune_many(
    backbone: Backbone,
    tasks: Sequence[Task],
    starts: Sequence[Prompt],
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    add_to: Path | str | None = None,
    on_step: Callable[[Progress], None] | None = None,
    command: str | None = None,
    **settings: Any,
) -> list[Run]:
    """Learn a soft prompt for each of `tasks` in front of its start, through one encoder that all of them share.

    As `tune`, in one run with one folder: a step reads rows of every task, `batch` in all, and the version that is kept
    does best on dev in the mean over the tasks. Several tasks need a method that is made for them. `add_to` is the
    folder of a finished run: the tasks begin with what its own have in common, and its prompts stay as they are.
    """
    began = time.perf_counter()
    prompts, options = prepare(tasks, starts, TuneOptions.of(settings))
    finished = read_finished(Path(add_to), options, backbone.fingerprint) if add_to is not None else None
    if finished:
        finished.check_new([prompt.name for prompt in prompts])
    method = METHODS[options.method]
    identity = _identity(backbone, tasks, starts, options, finished)
    run_id = id_of(identity)
    name = prompts[0].name if len(tasks) == 1 else f"{len(tasks)}-tasks-{options.method}"
    place = Path(folder) if folder is not None else Path("runs") / f"{name}-{run_id}"
    path = place / "checkpoint.safetensors"
    if resume and not os.path.isfile(path):
        raise ForewordError(f"no checkpoint {str(path)!r} to resume from; start without --resume")
    with locked(place, "tuning", FILES):
        saved = checkpoint.read(path) if resume else None
        if saved is None and path.exists():
            raise ForewordError(f"{str(place)!r} holds a run already; add --resume to go on, or choose another folder")
        if saved is not None:
            _check_same(saved.settings, identity, place)
        write_run_file(place, run_id, identity, environment(backbone), command, resumed=saved is not None)
        lessons = [
            Lesson(t, start, prompt, encode_rows(backbone, prompt, t, options.objective), t.dev[: options.dev_rows])
            for t, start, prompt in zip(tasks, starts, prompts, strict=True)
        ]
        origins = [
            begin(backbone, each.prompt, method.learns, options, each.start, each.task.train, each.rows.longest)
            for each in lessons
        ]
        learner = Learner(options, origins, backbone.device, finished.shared if finished else None)
        loop = _Loop(backbone, lessons, options, identity, learner, place, began)
        if saved is not None:
            loop.restore(saved)
        loop.run(on_step)
    return [
        Run(
            prompt=prompt.replace(labelled_rows=len(each.task.train)),
            curves=tuple(loop.curve),
            options=options,
            folder=place,
            steps=loop.step,
            seconds=loop.seconds,
            trained_parameters=learner.trained_parameters,
            notes=tuple(loop.accumulator.notes),
        )
        for each, prompt in zip(lessons, loop.prompts(loop.best, run_id), strict=True)
    ]


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], place: Path) -> None:
    """A run goes on only with what it was started with, or with more steps."""
    old, new = ({**settings, **settings["options"], "options": None} for settings in (before, now))
    if new["steps"] > old.get("steps", 0):
        old["steps"] = new["steps"]
    changed = [f"{name} {old.get(name)!r}, now {new[name]!r}" for name in new if new[name] != old.get(name)]
    if "added_to" in old and "added_to" not in new:
        changed.append(f"added to the run {old['added_to']}, now to none")
    if changed:
        raise ForewordError(
            f"{str(place)!r} was started with other settings ({'; '.join(changed)}); give the same, or a new folder"
        )


class _Loop:
    """The state of a run between two steps, and what a step does to it."""

    def __init__(
        self, backbone: Backbone, lessons: Sequence[Lesson], options: TuneOptions, settings: dict[str, Any],
        learner: Learner, folder: Path, began: float,
    ) -> None:  # fmt: skip
        self.backbone, self.lessons, self.options, self.settings = backbone, lessons, options, settings
        self.learner, self.folder, self.began = learner, folder, began
        self.accumulator = Accumulator(backbone, [lesson.rows for lesson in lessons])
        self.shares = shares(options.batch, len(lessons))
        self.step = self.best_step = 0
        self.best = self.start = learner.average
        self.real_norm = real_norm(backbone)
        self.curve: list[CurvePoint] = []
        self.losses: list[float] = []  # since the last measurement
        self.gradients: list[float] = []  # their norms, of the same steps
        self.before = 0.0  # seconds of the parts of this run that were interrupted
        self.saved_step, self.saved_at = 0, began

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def restore(self, saved: checkpoint.State) -> None:
        """Raises ForewordError where the checkpoint's tensors are not those of this run."""
        learner, vectors = self.learner, dict(self.start)
        moments = checkpoint.moments(learner.names) if saved.step else {}
        kept = {name: tensor for name, tensor in saved.optimiser.items() if not name.endswith(".step")}
        checkpoint.check_shapes(self.folder, "encoder", saved.encoder, learner.encoder.state_dict())
        checkpoint.check_shapes(self.folder, "optimiser", kept, moments)
        checkpoint.check_shapes(self.folder, "average", saved.average, vectors)
        checkpoint.check_shapes(self.folder, "best", saved.best, vectors)
        self.learner.encoder.load_state_dict(dict(saved.encoder))
        checkpoint.restore_optimiser(self.learner.optimiser, self.learner.names, saved.optimiser)
        self.learner.average, self.learner.steps = dict(saved.average), saved.step
        self.step, self.best_step = saved.step, saved.best_step
        self.best = dict(saved.best)
        self.curve, self.losses, self.gradients = list(saved.curve), list(saved.losses), list(saved.gradients)
        self.saved_step = saved.step
        self.before = self.curve[-1].seconds if self.curve else 0.0

    def run(self, on_step: Callable[[Progress], None] | None) -> None:
        if self.curve:
            self._save()  # the curve, for a kill may have come before it was written; and more steps, where there are
        else:
            self._measure()
        first, ran = self.step, time.perf_counter()
        with interrupts() as interrupted:
            while not self._ended():
                self.losses.append(self._step())
                if self.step % self.options.eval_every == 0 or self.step == self.options.steps:
                    self._measure()
                elif time.perf_counter() - self.saved_at > SAVE_SECONDS:
                    self._save()
                if on_step:
                    per_step = (time.perf_counter() - ran) / (self.step - first)
                    left = (self.options.steps - self.step) * per_step
                    dev, measured = self.curve[-1].dev, self.curve[-1].step
                    loss = self.losses[-1] if self.losses else self.curve[-1].loss or math.nan
                    rate = sum(self.shares) / per_step
                    lr = self.options.rate * schedule(self.step - 1, self.options.steps, self.options.warmup)
                    on_step(Progress(self.step, self.options.steps, loss, dev, measured, lr, rate, left))
                if interrupted():
                    self._save()
                    raise KeyboardInterrupt

    def _ended(self) -> bool:
        """Only where it was measured: where steps were added, patience may run out between two measurements."""
        return self.step == self.curve[-1].step and self.options.ended(self.step, peak(self.curve))

    def _step(self) -> float:
        batches = [
            lesson.rows.batch(self.step, share, self.options.seed)
            for lesson, share in zip(self.lessons, self.shares, strict=True)
        ]
        loss = self.accumulator.loss(self.learner.vectors(), batches)
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

    def _measure(self) -> None:
        """Measure dev, keep the best, write a checkpoint. What is measured is the running average."""
        if not all(torch.isfinite(tensor).all() for tensor in self.learner.average.values()):
            raise ForewordError(
                f"the virtual tokens are not finite at step {self.step}; lower the learning rate with --lr"
            )
        measured = zip(self.lessons, self.prompts(self.learner.average), strict=True)
        devs = {each.task.name: dev_score(self.backbone, each.task, p, each.dev) for each, p in measured if each.dev}
        dev = _mean(devs.values())
        if keeps(dev, self.curve, sum(len(each.dev) for each in self.lessons)):
            self.best, self.best_step = self.learner.average, self.step
        self.curve.append(self._point(dev, devs))
        self.losses, self.gradients = [], []
        self._save()

    def _point(self, dev: float | None, devs: dict[str, float]) -> CurvePoint:
        """Of several tasks, the mean of how far their vectors have moved, and the norm that is farthest off."""
        tasks = len(self.lessons)
        pairs = list(zip(by_task(self.learner.average, tasks), by_task(self.start, tasks), strict=True))
        ratios = (norm_ratio(now, start, self.real_norm) for now, start in pairs)
        distances = (moved(now, start) for now, start in pairs)
        return CurvePoint(
            step=self.step,
            rows=sum(
                lesson.rows.seen(self.step, share) for lesson, share in zip(self.lessons, self.shares, strict=True)
            ),
            loss=_mean(self.losses),
            dev=dev,
            seconds=self.seconds,
            dev_rows=sum(len(lesson.dev) for lesson in self.lessons) or None,
            norm_ratio=max((ratio for ratio in ratios if ratio is not None), default=None),
            moved=_mean(distance for distance in distances if distance is not None),
            gradient=_mean(self.gradients),
            clipped=_mean([norm > self.options.clip for norm in self.gradients]),
            dev_by_task=devs if tasks > 1 else None,
        )

    def prompts(self, tensors: Mapping[str, Tensor], run_id: str = "") -> list[Prompt]:
        """Every task's prompt as it would be served with these vectors, all that was trained counted for each."""
        method, trained = self.options.method, self.learner.trained_parameters
        return [
            served(self.backbone, lesson.prompt, vectors, method, trained, run_id)
            for lesson, vectors in zip(self.lessons, by_task(tensors, len(self.lessons)), strict=True)
        ]

    def _save(self) -> None:
        state = checkpoint.State(
            encoder=self.learner.encoder.state_dict(),
            optimiser=checkpoint.optimiser_tensors(self.learner.optimiser, self.learner.names),
            average=self.learner.average,
            best=self.best,
            start=self.start,
            step=self.step,
            best_step=self.best_step,
            curve=tuple(self.curve),
            losses=tuple(self.losses),
            gradients=tuple(self.gradients),
            settings=self.settings,
        )
        checkpoint.write(self.folder / "checkpoint.safetensors", state)
        self.saved_step, self.saved_at = self.step, time.perf_counter()
        lines = "".join(json.dumps(asdict(point)) + "\n" for point in self.curve)
        write_atomic(self.folder / "curves.jsonl", lines.encode())


def _mean(numbers: Iterable[float]) -> float | None:
    there = list(numbers)
    return sum(there) / len(there) if there else None


def _identity(
    backbone: Backbone, tasks: Sequence[Task], starts: Sequence[Prompt], options: TuneOptions, finished: Finished | None
) -> dict[str, Any]:
    return {
        "options": asdict(options),
        "task": _one_or_all(task.name for task in tasks),
        "data": _one_or_all(task.data_hash for task in tasks),
        "choices": _one_or_all(list(task.choices) if task.choices else None for task in tasks),
        "metric": _one_or_all(task.metric for task in tasks),
        "competitors": COMPETITORS,
        "start": _one_or_all(start.digest for start in starts),
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        **({"added_to": finished.id, "prompts_before": finished.prompts} if finished else {}),
    }


def _one_or_all(values: Iterable[Any]) -> Any:
    """One task's value as it is, several tasks' as a list."""
    there = list(values)
    return there[0] if len(there) == 1 else there
