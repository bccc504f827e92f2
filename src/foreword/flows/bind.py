"""Makes a strategy of whatever can answer rows: a prompt, a chain, a Python function. Knows no rows."""

from collections.abc import Callable
from typing import Any, get_args

from foreword.backbone import LanguageModel, Sampling
from foreword.errors import UsageError
from foreword.flows.chain import Chain
from foreword.flows.chain_strategy import ChainStrategy
from foreword.flows.prompt_strategy import PromptStrategy
from foreword.flows.strategy import Function, Kind, Strategy
from foreword.prompts import Prompt, expect_prompt
from foreword.tasks import Task

Answers = Prompt | Chain | Strategy | Callable[..., Any]
"""What `bind` makes a strategy of."""


def bind(
    item: Answers,
    model: LanguageModel,
    *,
    task: Task | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
) -> Strategy:
    """Make a strategy of a prompt, a chain or a Python function; a strategy is returned as it is.

    With a `task`, a prompt that declares no output answers one of the task's choices, and so does the output step of a
    chain. Raises UsageError if `item` cannot answer rows, ForewordError if the model cannot run it.
    """
    if isinstance(item, type):
        raise UsageError(f"{item!r} is a class; give an object of it, or a function")
    if isinstance(item, Prompt):
        return PromptStrategy(item.answering(task.choices) if task else item, model, sampling)
    if isinstance(item, Chain):
        return ChainStrategy(item.answering(task.choices) if task else item, model, sampling)
    if isinstance(item, Strategy):
        if item.kind not in get_args(Kind):
            raise UsageError(
                f"strategy {item.name!r} is of kind {item.kind!r}; it is one of {', '.join(get_args(Kind))}"
            )
        return item
    if callable(item):
        return Function.of(item)
    expect_prompt(item)  # its error says how to load a prompt by its name or its path
    raise UsageError(f"{item!r:.80} answers no rows; give a Prompt, a Chain, a function or a Strategy")
