"""How soft prompts are learned. The story, top to bottom, is `loop`; what it calls stands beside it."""

from foreword.tuning.curves import CurvePoint
from foreword.tuning.loop import Run, tune, tune_many
from foreword.tuning.lora import Adapted, Lora, adapt
from foreword.tuning.options import TuneOptions
from foreword.tuning.setup import soft_name

__all__ = ["Adapted", "CurvePoint", "Lora", "Run", "TuneOptions", "adapt", "soft_name", "tune", "tune_many"]
