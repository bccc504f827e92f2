"""Prompts that programs call, and prompts composed: a prompt as a function, chains of prompts, what calls have cost."""

from foreword.flows.chain import Chain
from foreword.flows.program import Program
from foreword.flows.result import Result, Usage
from foreword.flows.trace import Call, Trace, trace

__all__ = ["Call", "Chain", "Program", "Result", "Trace", "Usage", "trace"]
