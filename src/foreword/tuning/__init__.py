"""How soft prompts are learned: encoders, rows behind a shared front, loop, checkpoints."""

from foreword.tuning.curves import CurvePoint
from foreword.tuning.loop import Progress, Run, tune
from foreword.tuning.options import TuneOptions

__all__ = ["CurvePoint", "Progress", "Run", "TuneOptions", "tune"]
