"""How a soft prompt is learned, from top to bottom. Knows learners, rows and the backbone's log-probabilities.

A step reads a batch of rows behind their shared prefix, takes the mean loss over their answers, and moves what is
learned. The backbone never changes. Tasks tuned together share an encoder and every step. LoRA learns in this loop too.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from foreword.backbone import Backbone
from foreword.errors import ForewordError, UsageError
from foreword.interrupts import interrupts
from foreword.listen import SILENT, Listener, Progress
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning import checkpoint
from foreword.tuning.curves import CurvePoint, keeps, moved, norm_ratio, peak, real_norm
from foreword.tuning.diagnose import diagnose
from foreword.tuning.folder import RunFolder, id_of, opened
from foreword.tuning.learner import DivergedError, Learner, SoftPromptLearner, check_finite, lr_scale
from foreword.tuning.loss import Accumulator
from foreword.tuning.methods import by_task
from foreword.tuning.options import TuneOptions
from foreword.tuning.plan import as_begun, settle
from foreword.tuning.progress import State
from foreword.tuning.record import Finished, read_finished
from foreword.tuning.rows import SAMPLED_NEGATIVES, shares
from foreword.tuning.setup import TaskSetup, measure_dev, prepare
from foreword.tuning.start import begin

SAVE_SECONDS = 120
"""Of work that is lost at most; every measurement is saved besides."""


@dataclass(frozen=True)
class Run:
    """A finished run. Tasks tuned together have one each, which differ in the prompt only."""

    prompt: Prompt
    """The version that did best on dev as far as dev can tell, its vectors looked up from the encoder."""
    curves: tuple[CurvePoint, ...]
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
        return self.notes + diagnose(self.curves, self.options)


def tune(
    backbone: Backbone,
    task: Task,
    start: Prompt,
    *,
    folder: Path | str | None = None,
    resume: bool = False,
    budget: str | None = None,
    sweep: bool = False,
    listener: Listener = SILENT,
    command: str | None = None,
    **settings: Any,
) -> Run:
    """Learn a soft prompt for `task` in front of `start`, and keep the version that does best on dev: the latest of
    those that dev cannot tell apart.

    `settings` are the fields of `TuneOptions`: method, tokens, steps and so on. The run lives in `folder` (`runs/ID` by
    default): `checkpoint.safetensors`, `curves.jsonl`, `run.json`, `progress.json`. With `resume` it goes on from its
    checkpoint exactly as if it had not stopped, or, given more steps, beyond its end. Ctrl-C saves before it ends.
    `command`, the command line that asked for it, is written down beside its settings.

    With a `budget`, `5m` or `4000rows`, steps, rows per step and measurements are planned to fit. With `sweep` a few
    settings are tried first, on top of the budget, and the best on dev is tuned; what is given in `settings` is not
    varied. Such a run that is resumed keeps what was planned.
    Raises ForewordError when the loss is not finite any more; the last good checkpoint stays.
    """
    if budget is not None or sweep:
        if budget is not None and "steps" in settings:
            raise UsageError("a budget plans the steps; give it or steps")
        if resume and folder is None:
            raise UsageError("resume needs the folder of the run that is to go on")
        options = TuneOptions.of(settings)
        path = Path(folder) if folder is not None else Path("runs") / f"{task.name}-{options.method}-{uuid4().hex[:12]}"
        if resume and (path / "checkpoint.safetensors").exists():
            options = as_begun(path, settings)
        else:
            resume = False  # killed before its first checkpoint, it begins anew
            options = settle(
                backbone, task, start, options, list(settings), searched=sweep, budget=budget, folder=path,
                listener=listener,
            )  # fmt: skip
        folder, settings = path, vars(options)
    [run] = tune_many(
        backbone, [task], [start], folder=folder, resume=resume, listener=listener, command=command, **settings
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
    listener: Listener = SILENT,
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
    identity = identity_of(backbone, tasks, starts, options, finished)
    name = prompts[0].name if len(tasks) == 1 else f"{len(tasks)}-tasks-{options.method}"
    path = Path(folder) if folder is not None else Path("runs") / f"{name}-{id_of(identity)}"
    with opened(path, identity, backbone, resume=resume, command=command) as kept:
        setups = [
            TaskSetup.of(backbone, task, start, prompt, options)
            for task, start, prompt in zip(tasks, starts, prompts, strict=True)
        ]
        origins = [begin(backbone, setup, options) for setup in setups]
        learner = SoftPromptLearner(backbone, prompts, origins, options, finished.shared if finished else None)
        training = Training(learner, setups, options, name, kept, listener, began)
        try:
            training.run()
        except DivergedError as error:
            raise ForewordError(
                f"{error}; the checkpoint of step {training.saved_step} in {str(path)!r} is kept. Lower the learning "
                f"rate: --lr {options.rate / 3:.2g}"
            ) from error
    return [
        Run(
            prompt=prompt.replace(labelled_rows=len(task.train)),
            curves=tuple(training.curve),
            options=options,
            folder=path,
            steps=training.step,
            seconds=training.seconds,
            trained_parameters=learner.trained_parameters,
            notes=tuple(training.accumulator.notes),
        )
        for task, prompt in zip(tasks, learner.to_prompts(training.best, id_of(identity)), strict=True)
    ]


class Training:
    """The state of a run between two steps, and what a step does to it."""

    def __init__(
        self, learner: Learner, setups: Sequence[TaskSetup], options: TuneOptions, name: str, folder: RunFolder | None,
        listener: Listener, began: float,
    ) -> None:  # fmt: skip
        """The run's seconds count from `began`, of `time.perf_counter`. Without a `folder` nothing is saved."""
        self.learner, self.setups, self.options, self.name = learner, setups, options, name
        self.folder, self.listener, self.began = folder, listener, began
        self.accumulator = Accumulator(learner.backbone, [setup.rows for setup in setups])
        self.shares = shares(options.batch, len(setups))
        self.step = self.best_step = 0
        self.best = self.start = learner.ema
        self.real_norm = real_norm(learner.backbone)
        self.curve: list[CurvePoint] = []
        self.loss = self.pace = math.nan  # of the last step, in nats; seconds of a step
        self.losses: list[float] = []  # since the last measurement
        self.gradients: list[float] = []  # their norms, of the same steps
        self.before = 0.0  # seconds of the parts of this run that were interrupted
        self.saved_step, self.saved_at = 0, began
        if folder is not None and folder.saved is not None:
            self._restore(folder.path, folder.saved)

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def run(self) -> None:
        """Learn until all steps are done or patience ends. Raises DivergedError before a step that would be lost."""
        if self.curve:
            self._save()  # the curve, for a kill may have come before it was written; and more steps, where there are
        else:
            self._measure()
        self._note("running")  # of a run that is over too
        first, ran = self.step, time.perf_counter()
        with interrupts() as interrupted:
            while not self._ended():
                self._step()
                if self.step % self.options.eval_every == 0 or self.step == self.options.steps:
                    self._measure()
                elif time.perf_counter() - self.saved_at > SAVE_SECONDS:
                    self._save()
                self.pace = (time.perf_counter() - ran) / (self.step - first)
                self._note("running")
                self.listener.step(self.name, self._progress())
                if interrupted():
                    self._save()
                    raise KeyboardInterrupt

    def _ended(self) -> bool:
        """Only where it was measured: where steps were added, patience may run out between two measurements."""
        return self.step == self.curve[-1].step and self.options.ended(self.step, peak(self.curve))

    def _step(self) -> None:
        """Read a batch of every task and move what is learned."""
        batches = [
            setup.rows.batch(self.step, share, self.options.seed)
            for setup, share in zip(self.setups, self.shares, strict=True)
        ]
        vectors = self.learner.vectors()
        loss = self.accumulator.loss(vectors, batches, self.learner.leaves)
        norm = self.learner.backward_and_clip()
        check_finite(loss, norm, self.step)
        self.learner.optimizer_step(self._lr_scale(self.step))
        self.loss = loss
        self.losses.append(loss)
        self.gradients.append(norm)
        self.step += 1

    def _lr_scale(self, step: int) -> float:
        return lr_scale(step, self.options.steps, self.options.warmup)

    def _measure(self) -> None:
        """Measure dev, keep the best, write a checkpoint. What is measured is the moving average."""
        if not all(torch.isfinite(tensor).all() for tensor in self.learner.ema.values()):
            raise DivergedError(f"what is learned is not finite at step {self.step}")
        self._note("measuring")
        with self.learner.evaluating() as prompts:
            devs = {
                setup.task.name: measure_dev(self.learner.backbone, setup.task, prompt, setup.dev)
                for setup, prompt in zip(self.setups, prompts, strict=True)
                if setup.dev
            }
        dev = _mean(devs.values())
        if keeps(dev, self.curve, sum(len(setup.dev) for setup in self.setups)):
            self.best, self.best_step = self.learner.ema, self.step
        self.curve.append(self._point(dev, devs))
        self.losses, self.gradients = [], []
        self._save()

    def _point(self, dev: float | None, devs: dict[str, float]) -> CurvePoint:
        """Of several tasks, the mean of how far their vectors have moved, and the norm that is farthest off."""
        tasks = len(self.setups)
        pairs = list(zip(by_task(self.learner.ema, tasks), by_task(self.start, tasks), strict=True))
        ratios = (norm_ratio(now, start, self.real_norm) for now, start in pairs)
        distances = (moved(now, start) for now, start in pairs)
        return CurvePoint(
            step=self.step,
            rows=sum(setup.rows.seen(self.step, share) for setup, share in zip(self.setups, self.shares, strict=True)),
            loss=_mean(self.losses),
            dev=dev,
            seconds=self.seconds,
            dev_rows=sum(len(setup.dev) for setup in self.setups) or None,
            norm_ratio=max((ratio for ratio in ratios if ratio is not None), default=None),
            moved=_mean(distance for distance in distances if distance is not None),
            gradient=_mean(self.gradients),
            clipped=_mean([norm > self.options.clip for norm in self.gradients]),
            dev_by_task=devs if tasks > 1 else None,
        )

    def _note(self, state: State) -> None:
        """For whoever looks into the folder."""
        if self.folder is not None:
            self.folder.progress.tell(state, self._progress())

    def _progress(self) -> Progress:
        measured = self.curve[-1] if self.curve else None
        return Progress(
            step=self.step,
            steps=self.options.steps,
            loss=self.loss,
            dev=measured.dev if measured else None,
            dev_step=measured.step if measured else 0,
            learning_rate=self.options.rate * self._lr_scale(self.step - 1),
            rows_per_second=sum(self.shares) / self.pace,
            seconds_left=(self.options.steps - self.step) * self.pace,
        )

    def _save(self) -> None:
        if self.folder is None:
            return
        state = checkpoint.State(
            encoder=self.learner.state(),
            optimizer=checkpoint.optimizer_tensors(self.learner.optimizer, self.learner.names),
            ema=self.learner.ema,
            best=self.best,
            start=self.start,
            step=self.step,
            best_step=self.best_step,
            curve=tuple(self.curve),
            losses=tuple(self.losses),
            gradients=tuple(self.gradients),
            settings=self.folder.identity,
        )
        self.folder.save(state)
        self.saved_step, self.saved_at = self.step, time.perf_counter()

    def _restore(self, path: Path, saved: checkpoint.State) -> None:
        """Raises ForewordError where the checkpoint's tensors are not those of this run."""
        learner, learned = self.learner, dict(self.start)
        moments = checkpoint.moments(learner.names) if saved.step else {}
        kept = {name: tensor for name, tensor in saved.optimizer.items() if not name.endswith(".step")}
        checkpoint.check_shapes(path, "encoder", saved.encoder, learner.state())
        checkpoint.check_shapes(path, "optimiser", kept, moments)
        checkpoint.check_shapes(path, "average", saved.ema, learned)
        checkpoint.check_shapes(path, "best", saved.best, learned)
        learner.restore(saved.encoder, saved.ema, saved.step)
        checkpoint.restore_optimizer(learner.optimizer, learner.names, saved.optimizer)
        self.step, self.best_step = saved.step, saved.best_step
        self.best = dict(saved.best)
        self.curve, self.losses, self.gradients = list(saved.curve), list(saved.losses), list(saved.gradients)
        self.saved_step = saved.step
        losses = [*(point.loss for point in self.curve if point.loss is not None), *self.losses]
        self.loss = losses[-1] if losses else math.nan
        self.before = self.curve[-1].seconds if self.curve else 0.0


def _mean(numbers: Iterable[float]) -> float | None:
    there = list(numbers)
    return sum(there) / len(there) if there else None


def identity_of(
    backbone: Backbone, tasks: Sequence[Task], starts: Sequence[Prompt], options: TuneOptions,
    finished: Finished | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a run is started with, all that its numbers follow from; `competitors` are the sampled negatives."""
    return {
        "options": asdict(options),
        "task": _one_or_all(task.name for task in tasks),
        "data": _one_or_all(task.data_hash for task in tasks),
        "choices": _one_or_all(list(task.choices) if task.choices else None for task in tasks),
        "metric": _one_or_all(task.metric for task in tasks),
        "competitors": SAMPLED_NEGATIVES,
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
