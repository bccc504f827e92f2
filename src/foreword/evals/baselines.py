"""Baselines that any prompt must beat: the commonest answer, and a linear model over words.

Each is a strategy that is fitted to a task's training rows; other packages add theirs by entry point. Knows rows; knows
no language model.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foreword.backbone import LanguageModel
from foreword.errors import ForewordError
from foreword.flows import Cost, Kind, Result, Strategy, Usage
from foreword.listen import Count
from foreword.registry import Registry
from foreword.tasks import Row, Task


@dataclass(frozen=True)
class Classifier:
    """A strategy that answers all rows at once with a function over their texts. It calls no language model."""

    name: str
    takes: tuple[str, ...]
    cost: Cost
    detail: str
    predict: Callable[[Sequence[str]], Sequence[str]]
    """The function that gives one answer for each text; a text holds all inputs of a row, one a line."""
    kind: Kind = "baseline"

    def take(self, row: Mapping[str, str], where: str) -> Mapping[str, object]:  # noqa: ARG002 - a task's rows fit
        """Return the task's inputs of a row."""
        return {name: row[name] for name in self.takes}

    def batch(self, rows: Sequence[Mapping[str, object]], on_rows: Count | None = None) -> list[Result[Any]]:
        """Answer all rows in one call of the function; each result gets an equal share of the seconds."""
        began = time.perf_counter()
        answers = self.predict(["\n".join(map(str, row.values())) for row in rows]) if rows else []
        share = (time.perf_counter() - began) / max(1, len(rows))
        if on_rows:
            on_rows(len(rows), len(rows))
        return [Result(answer, answer, Usage(), share) for answer in answers]


MAJORITY = "majority class"
"""The name of the baseline that all else is compared with where there is no hard prompt."""


def majority(task: Task) -> Strategy:
    """Return the baseline that always gives the commonest training answer."""
    answer = Counter(row.target for row in task.train).most_common(1)[0][0]
    cost = Cost(labelled_rows=len(task.train))
    return Classifier(MAJORITY, task.inputs, cost, f"always {answer!r}", lambda texts: [answer] * len(texts))


def tfidf(task: Task) -> Strategy:
    """Fit logistic regression on the TF-IDF of words and word pairs; its inverse penalty C is chosen on dev.

    Raises ForewordError if the training rows hold one label only, or no word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len({row.target for row in task.train}) < 2:
        raise ForewordError(f"task {task.name!r}: the training rows hold one label only; add rows of the others")

    def fit(strength: float) -> Any:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        model = make_pipeline(words, LogisticRegression(C=strength, max_iter=1000))
        return model.fit([_text(row) for row in task.train], [row.target for row in task.train])

    def dev_score(model: Any) -> float:
        return sum(task.score([str(answer) for answer in model.predict([_text(row) for row in task.dev])], task.dev))

    try:
        models = [(strength, fit(strength)) for strength in (1.0, 10.0)]
    except ValueError as error:  # no word in any row
        raise ForewordError(f"task {task.name!r}: {error}") from error
    strength, model = max(models, key=lambda pair: dev_score(pair[1]) if task.dev else -pair[0])
    weights = int(model[-1].coef_.size + model[-1].intercept_.size)
    return Classifier(
        "TF-IDF + logistic regression",
        task.inputs,
        Cost(weights, len(task.train)),
        f"words and pairs of words, C = {strength:g}",
        lambda texts: [str(answer) for answer in model.predict(texts)],
    )


def _text(row: Row) -> str:
    return "\n".join(row.inputs.values())


Factory = Callable[[LanguageModel, Task], Strategy]
"""A function that makes a strategy for a task from its training rows; it must not read the test rows."""

STRATEGIES: Registry[Factory] = Registry(
    "foreword.strategies",
    {"majority": lambda model, task: majority(task), "tfidf": lambda model, task: tfidf(task)},  # noqa: ARG005
    callable,
)
"""The strategies that `compare` takes by name, beside prompts, chains and functions."""
