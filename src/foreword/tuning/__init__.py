"""How soft prompts are learned. The story, top to bottom, is `loop`; what it calls stands beside it."""

from foreword.tuning.curves import CurvePoint
from foreword.tuning.diagnose import diagnose
from foreword.tuning.loop import Run, tune, tune_many
from foreword.tuning.lora import Adapted, Lora, adapt
from foreword.tuning.methods import METHODS, Method, Start, check_multitask
from foreword.tuning.options import TuneOptions
from foreword.tuning.plan import as_begun
from foreword.tuning.progress import RunProgress, read_progress
from foreword.tuning.record import Record, read_record, start_of
from foreword.tuning.setup import soft_name

__all__ = [
    "METHODS",
    "Adapted",
    "CurvePoint",
    "Lora",
    "Method",
    "Record",
    "Run",
    "RunProgress",
    "Start",
    "TuneOptions",
    "adapt",
    "as_begun",
    "check_multitask",
    "diagnose",
    "read_progress",
    "read_record",
    "soft_name",
    "start_of",
    "tune",
    "tune_many",
]
