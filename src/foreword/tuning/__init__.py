"""How soft prompts are learned. The story, top to bottom, is `loop`; what it calls stands beside it."""

from foreword.tuning.curves import CurvePoint
from foreword.tuning.loop import Run, tune, tune_many
from foreword.tuning.lora import Adapted, Lora, adapt
from foreword.tuning.methods import METHODS, check_multitask
from foreword.tuning.options import TuneOptions
from foreword.tuning.plan import as_begun
from foreword.tuning.setup import soft_name

__all__ = [
    "METHODS",
    "Adapted",
    "CurvePoint",
    "Lora",
    "Run",
    "TuneOptions",
    "adapt",
    "as_begun",
    "check_multitask",
    "soft_name",
    "tune",
    "tune_many",
]
