"""Evaluation of strategies on held-out rows: baselines, calibration, comparison, gates, statistics, the report.

Knows strategies and their scores; knows no HTTP and no terminal.
"""

from foreword.evals.baselines import STRATEGIES, Factory
from foreword.evals.calibration import CALIBRATION_ROWS, calibrate
from foreword.evals.choose import Candidate, evaluate_on_dev
from foreword.evals.comparison import Result, build_result, compare
from foreword.evals.examples import few_shot
from foreword.evals.flips import Flips, flips
from foreword.evals.gate import Verdict, gate
from foreword.evals.result import StrategyResult
from foreword.evals.statistics import Difference, Interval, is_right_or_wrong, paired_difference, score_interval
from foreword.evals.verdict import LEVEL
from foreword.evals.wording import Scale, p_text

__all__ = [
    "CALIBRATION_ROWS",
    "LEVEL",
    "STRATEGIES",
    "Candidate",
    "Difference",
    "Factory",
    "Flips",
    "Interval",
    "Result",
    "Scale",
    "StrategyResult",
    "Verdict",
    "build_result",
    "calibrate",
    "compare",
    "evaluate_on_dev",
    "few_shot",
    "flips",
    "gate",
    "is_right_or_wrong",
    "p_text",
    "paired_difference",
    "score_interval",
]
