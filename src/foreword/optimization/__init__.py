"""Search for a better hard prompt: instructions and demonstrations, tried on train, chosen on dev.

Knows prompts, tasks and models; knows no table and no terminal.
"""

from foreword.optimization.optimizer import optimize
from foreword.optimization.outcome import Accepted, Optimized, Tested

__all__ = ["Accepted", "Optimized", "Tested", "optimize"]
