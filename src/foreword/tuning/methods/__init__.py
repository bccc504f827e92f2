"""The methods: what each one trains, and when to choose it. `method` says what a method is."""

from contextlib import suppress

from foreword.errors import ForewordError, UsageError
from foreword.registry import Registry
from foreword.tuning.methods import p_tuning
from foreword.tuning.methods.dept import Decomposed
from foreword.tuning.methods.method import Encoder, Method, Start, by_task, count, flat, made
from foreword.tuning.methods.multitask import Multitask
from foreword.tuning.methods.p_tuning_multitask import SharedMLP
from foreword.tuning.methods.prefix import Prefix, PrefixMLP
from foreword.tuning.methods.prompt_tuning import Embedding
from foreword.tuning.methods.residual import Residual

METHODS: Registry[Method] = Registry("foreword.methods", {
    "prompt-tuning": Method(
        Embedding, 2e-2, "the virtual tokens: P · D numbers", "you begin: least to store, anywhere in a template"
    ),
    "residual-prompt-tuning": Method(
        Residual, 1e-2, "the virtual tokens and a narrow MLP over each: P · D + 256 · D", "prompt tuning is stuck"
    ),
    "p-tuning": Method(
        p_tuning.mlp, 2e-3, "an MLP that makes the virtual tokens: P · D + 3 · D²", "tokens should move together"
    ),
    "p-tuning-lstm": Method(
        p_tuning.lstm, 2e-3, "an LSTM that makes them in order: about P · D + 6 · D²", "their order matters"
    ),
    "p-tuning-tpmlp": Method(
        p_tuning.tpmlp, 2e-3, "a feed-forward block that makes them: P · D + 8 · D²", "p-tuning is too narrow"
    ),
    "prefix-tuning": Method(
        Prefix, 1e-2, "keys and values in every layer: 2 · L · H · P · head_dim", "quality matters more than size",
        "prefix",
    ),
    "prefix-tuning-mlp": Method(
        PrefixMLP, 1e-3, "an MLP that makes keys and values: about 1,024 · L · H · head_dim",
        "prefix tuning is unsteady",
        "prefix",
    ),
    "dept": Method(
        Decomposed, 2e-2, "virtual tokens and a low-rank offset to the words: P · D + 8 · (S + D)",
        "prompts must be short",
    ),
    "multitask": Method(
        Multitask, 2e-2, "one prompt and a factor of rank 1 for each of T tasks: P · D + T · (P + D)",
        "tasks are alike and have few rows",
        multitask=True,
    ),
    "p-tuning-multitask": Method(
        SharedMLP, 2e-3, "an MLP that makes the virtual tokens of T tasks: T · P · D + 3 · D²",
        "more tasks will be added later",
        multitask=True,
    ),
}, lambda made: isinstance(made, Method))  # fmt: skip
"""By name: those here, and those that installed packages add."""


def usable() -> dict[str, Method]:
    """All methods, without those of packages that cannot be loaded."""
    methods = {}
    for name in METHODS:
        with suppress(ForewordError):
            methods[name] = METHODS[name]
    return methods


def check_multitask(method: str) -> None:
    """Raises UsageError where `method` tunes one task at a time."""
    if not METHODS[method].multitask:
        several = " or ".join(name for name, other in usable().items() if other.multitask)
        raise UsageError(f"method {method!r} tunes one task at a time; for several choose --method {several}")


__all__ = ["METHODS", "Encoder", "Method", "Start", "by_task", "check_multitask", "count", "flat", "made", "usable"]
