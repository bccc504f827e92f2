"""What can be set in a run, with its defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from foreword.errors import UsageError
from foreword.tuning.methods import METHODS

STARTS = ("text", "labels", "demonstrations", "vocabulary", "random", "prompt", "zero")


@dataclass(frozen=True)
class TuneOptions:
    """Settings of a run. Two runs with the same settings, rows and machine give the same prompt, bit for bit."""

    method: str = "prompt-tuning"
    tokens: int = 16
    """P, virtual tokens, where the start prompt has none yet."""
    init: str | None = None
    """Where they begin, one of `STARTS`; None: the start's own vectors, else its text."""
    init_text: str | None = None
    """The text to begin from; the start prompt's own words where it is None."""
    objective: str = "choices"
    """`choices`: tell the right choice from the others; `answer`: write the answer, as free text always does."""
    steps: int = 250
    batch: int = 16
    """Rows per step."""
    learning_rate: float | None = None
    """None: what suits the method."""
    warmup: float = 0.05
    """Share of the steps."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """The gradient's norm is cut to this."""
    eval_every: int = 50
    """Steps between measurements on dev and checkpoints."""
    dev_rows: int = 300
    """Rows of dev that are measured during the run."""
    patience: int = 4
    """Measurements without a better one after which the run stops."""
    seed: int = 0

    def __post_init__(self) -> None:
        _choice("method", self.method, tuple(METHODS))
        _choice("objective", self.objective, ("choices", "answer"))
        if self.init is not None:
            _choice("init", self.init, STARTS)
        for name in ("tokens", "steps", "batch", "eval_every", "dev_rows", "patience"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, not {value!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must be a whole number from 0 to 2**63 - 1, not {self.seed!r}")
        for name, low, high in (("rate", 0, 100), ("warmup", -1, 1), ("weight_decay", -1, 1e3), ("clip", 0, 1e6)):
            value = getattr(self, name)
            if not low < value < high:
                raise UsageError(f"{name.replace('rate', 'learning_rate')} {value!r} is out of range")
        if self.warmup < 0 or self.weight_decay < 0:
            raise UsageError("warmup and weight_decay cannot be below 0")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "TuneOptions":
        """From keywords; names the one that does not exist."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise UsageError(f"no setting {name!r}; there are: {', '.join(known)}")
        return cls(**settings)

    def ended(self, step: int, best_step: int) -> bool:
        """Whether a run is over at `step`: all are done, or `patience` measurements were no better than the best."""
        return step >= self.steps or step - best_step >= self.patience * self.eval_every

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return METHODS[self.method].learning_rate if self.learning_rate is None else self.learning_rate


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} {value!r}: choose one of {', '.join(allowed)}")
