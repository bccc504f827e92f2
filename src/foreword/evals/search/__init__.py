"""Searching for better words: instructions and demonstrations, tried on train, chosen on dev."""

from foreword.evals.search.engine import Standing
from foreword.evals.search.found import Optimized, Step, Tested
from foreword.evals.search.optimizer import optimize

__all__ = ["Optimized", "Standing", "Step", "Tested", "optimize"]
