"""What a run has given when it is over."""

from dataclasses import dataclass
from pathlib import Path

from foreword.prompts import Prompt
from foreword.tuning.curves import CurvePoint
from foreword.tuning.diagnose import diagnose
from foreword.tuning.options import TuneOptions


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
