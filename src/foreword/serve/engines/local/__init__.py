"""The engine on this machine: one frozen model, rows of many prompts in one batch."""

from foreword.serve.engines.local.local_engine import LocalEngine

__all__ = ["LocalEngine"]
