"""How soft prompts are learned: encoders, rows behind a shared prefix, loop, checkpoints."""

from foreword.tuning.curves import CurvePoint
from foreword.tuning.loop import tune, tune_many
from foreword.tuning.options import TuneOptions
from foreword.tuning.run import Run

__all__ = ["CurvePoint", "Run", "TuneOptions", "tune", "tune_many"]
