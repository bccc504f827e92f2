"""How likely choices are, by requests for one token each. Knows token ids; knows no engine."""

from collections.abc import Iterable, Sequence

Step = tuple[tuple[int, ...], int]
"""The tokens of an answer that stand before, and the one that is asked about."""


def steps(answers: Iterable[Sequence[int]]) -> list[Step]:
    """All that must be asked; what answers begin with alike is asked once."""
    return list(dict.fromkeys((tuple(answer[:i]), answer[i]) for answer in answers for i in range(len(answer))))


def sums(answers: Iterable[Sequence[int]], found: dict[Step, float]) -> list[float]:
    """The log-likelihood of each answer, in nats."""
    return [sum(found[tuple(answer[:i]), answer[i]] for i in range(len(answer))) for answer in answers]
