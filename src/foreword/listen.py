"""How work tells what it is doing: sentences, stages, training steps. Knows nobody who listens.

Every job takes a `listener`: the command line draws bars, a run's folder keeps the last step for other processes, a
program passes nothing and hears nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Count = Callable[[int, int], None]
"""Called with (done, total) of a stage whose name has been told."""


@dataclass(frozen=True)
class Progress:
    """Where a training run stands after a step."""

    step: int
    """Optimizer steps done."""
    steps: int
    loss: float
    """Mean loss of the last step, in nats."""
    dev: float | None
    """The task's metric at the last measurement on dev; None where there are no dev rows."""
    dev_step: int
    """After how many steps it was measured."""
    learning_rate: float
    """Of the last step."""
    rows_per_second: float
    seconds_left: float
    """Until the last step, at the speed so far."""


class Listener(Protocol):
    """Hears what a job does. Its methods are called from the job's own thread and must not raise."""

    def say(self, text: str, heading: str = "") -> None:
        """A sentence that stays, after its `heading`."""
        ...

    def stage(self, name: str, done: int, total: int, figures: str = "") -> None:
        """Where a stage stands: `done` of `total` rows, bytes or steps; a `total` of 0 is not known."""
        ...

    def step(self, name: str, progress: Progress) -> None:
        """A step of the training run `name`."""
        ...


class Silent:
    """A listener for whoever wants to hear nothing."""

    def say(self, text: str, heading: str = "") -> None:
        """Nothing."""

    def stage(self, name: str, done: int, total: int, figures: str = "") -> None:
        """Nothing."""

    def step(self, name: str, progress: Progress) -> None:
        """Nothing."""


SILENT: Listener = Silent()


def counter(listener: Listener, name: str) -> Count:
    """What to call with (done, total) of the stage `name`."""
    return lambda done, total: listener.stage(name, done, total)
