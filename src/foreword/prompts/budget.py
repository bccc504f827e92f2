"""Token budgets of inputs: what is left out of a longer text, and the message that says so. Knows no tokenizer.

Whoever encodes a prompt brings the tokens. A model that tells none is given 4 characters for each token of a budget.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foreword.errors import ForewordWarning, UsageError
from foreword.prompts.prompt import CHARACTERS_PER_TOKEN, Prompt

Spans = Callable[[str], Sequence[tuple[int, int]]]
"""Where each token of a text begins and ends, in characters."""

JOINT = " … "
"""Stands where the middle of a text was."""


@dataclass(frozen=True)
class Cut:
    """What was left out of one input."""

    input: str
    tokens: int
    """That it had."""
    kept: int
    truncate: str
    """The part that was left out: `start`, `end` or `middle`."""

    def __str__(self) -> str:
        return f"input {self.input!r} has {self.tokens:,} tokens: {self.kept:,} were kept, its {self.truncate} was cut"


def fit_budgets(
    prompt: Prompt, inputs: Mapping[str, object], spans: Spans
) -> tuple[dict[str, object], tuple[Cut, ...]]:
    """`inputs` with every one that has a budget cut to it, and what was cut; warns of it too, once for each input.

    Raises UsageError for an input above its budget that does not say what may be cut.
    """
    values, cuts = dict(inputs), []
    for name, spec in prompt.specs.items():
        value = values.get(name, spec.default)
        if spec.maxTokens is None or not isinstance(value, str) or name not in prompt.variables:
            continue
        had = len(spans(value))
        if had <= spec.maxTokens:
            continue
        if spec.truncate is None:
            raise UsageError(
                f"prompt {prompt.name!r}: input {name!r} has {had:,} tokens, {spec.maxTokens:,} at most; shorten it, "
                "or say in the prompt what may be cut: 'truncate: start', 'middle' or 'end'"
            )
        values[name] = _cut(value, spec.maxTokens, spec.truncate, spans)
        cuts.append(Cut(name, had, len(spans(str(values[name]))), spec.truncate))
        message = f"input {name!r} of prompt {prompt.name!r} is longer than its {spec.maxTokens:,} tokens"
        warnings.warn(f"{message}; its {spec.truncate} is cut", ForewordWarning, stacklevel=3)
    return values, tuple(cuts)


def estimated_spans(text: str) -> list[tuple[int, int]]:
    """Where tokens would stand if each had 4 characters."""
    return [(i, min(i + CHARACTERS_PER_TOKEN, len(text))) for i in range(0, len(text), CHARACTERS_PER_TOKEN)]


def _cut(text: str, limit: int, truncate: str, spans: Spans) -> str:
    """At most `limit` tokens of `text`. A part can have more tokens alone than it had, so the result is counted."""
    places = spans(text)
    for count in range(limit, 0, -1):
        cut = _part(text, places, count, truncate)
        if len(spans(cut)) <= limit:
            return cut
    return _cut(text, limit, "end", spans) if truncate == "middle" else ""  # no room for two ends and what joins them


def _part(text: str, places: Sequence[tuple[int, int]], count: int, truncate: str) -> str:
    if truncate == "end":
        return text[: places[count - 1][1]]
    if truncate == "start":
        return text[places[-count][0] :]
    head, tail = -(-count // 2), count // 2
    return text[: places[head - 1][1]] + JOINT + (text[places[-tail][0] :] if tail else "")
