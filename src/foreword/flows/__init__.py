"""Strategies, the one seam for whatever answers rows: prompts and chains on a model, Python functions; their costs.

Knows prompts, and models through their seam; knows no tuning and no evaluation.
"""

from foreword.flows.bind import Answers, bind
from foreword.flows.chain import Chain
from foreword.flows.chain_strategy import ChainStrategy
from foreword.flows.measure import Measured, measure
from foreword.flows.program import Program, check
from foreword.flows.prompt_strategy import PromptStrategy
from foreword.flows.result import Result, Usage
from foreword.flows.strategy import Cost, Function, Kind, Strategy
from foreword.flows.trace import Call, Trace, trace

__all__ = [
    "Answers",
    "Call",
    "Chain",
    "ChainStrategy",
    "Cost",
    "Function",
    "Kind",
    "Measured",
    "Program",
    "PromptStrategy",
    "Result",
    "Strategy",
    "Trace",
    "Usage",
    "bind",
    "check",
    "measure",
    "trace",
]
