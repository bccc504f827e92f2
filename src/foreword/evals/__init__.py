"""Measuring honestly: baselines, calibration, comparison, statistics, the report."""

from foreword.evals.calibration import calibrate
from foreword.evals.choose import Candidate, weigh
from foreword.evals.comparison import compare
from foreword.evals.examples import few_shot
from foreword.evals.flips import Flips, flips
from foreword.evals.gate import Verdict, gate
from foreword.evals.lora import Lora
from foreword.evals.result import Result, StrategyResult, build_result
from foreword.evals.search import Optimized, optimize

__all__ = [
    "Candidate",
    "Flips",
    "Lora",
    "Optimized",
    "Result",
    "StrategyResult",
    "Verdict",
    "build_result",
    "calibrate",
    "compare",
    "few_shot",
    "flips",
    "gate",
    "optimize",
    "weigh",
]
