"""Searching for better words: instructions and demonstrations, tried on train, chosen on dev."""

from foreword.optimization.optimizer import optimize
from foreword.optimization.outcome import Accepted, Optimized, Tested

__all__ = ["Accepted", "Optimized", "Tested", "optimize"]
