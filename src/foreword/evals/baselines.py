"""What any prompt must beat: the commonest answer, and a linear model over words. Know rows; know no language model."""

import time
from collections import Counter

from foreword.errors import ForewordError
from foreword.evals.result import StrategyResult
from foreword.tasks import Row, Task


def majority(task: Task) -> StrategyResult:
    """Always the commonest training answer."""
    answer = Counter(row.target for row in task.train).most_common(1)[0][0]
    predictions = [answer] * len(task.test)
    return _result("majority class", task, predictions, 0.0, f"always {answer!r}")


def tfidf(task: Task) -> StrategyResult:
    """TF-IDF over words and pairs of words, then logistic regression; its one strength setting is chosen on dev."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len({row.target for row in task.train}) < 2:
        raise ForewordError(f"task {task.name!r}: the training rows hold one label only; add rows of the others")

    def fit(strength: float) -> object:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        model = make_pipeline(words, LogisticRegression(C=strength, max_iter=1000))
        return model.fit([_text(row) for row in task.train], [row.target for row in task.train])

    def predict(model: object, rows: tuple[Row, ...]) -> list[str]:
        return [str(answer) for answer in model.predict([_text(row) for row in rows])]  # type: ignore[attr-defined]

    try:
        models = [(strength, fit(strength)) for strength in (1.0, 10.0)]
    except ValueError as error:  # no word in any row
        raise ForewordError(f"task {task.name!r}: {error}") from error
    strength, model = max(
        models, key=lambda pair: sum(task.score(predict(pair[1], task.dev), task.dev)) if task.dev else -pair[0]
    )
    began = time.perf_counter()
    for row in task.test[:20]:
        predict(model, (row,))
    ms = 1e3 * (time.perf_counter() - began) / min(20, len(task.test))
    weights = model[-1].coef_.size + model[-1].intercept_.size  # type: ignore[index]
    detail = f"words and pairs of words, C = {strength:g}"
    return _result("TF-IDF + logistic regression", task, predict(model, task.test), ms, detail, int(weights))


def _text(row: Row) -> str:
    return "\n".join(row.inputs.values())


def _result(
    name: str, task: Task, predictions: list[str], ms: float, detail: str, parameters: int = 0
) -> StrategyResult:
    return StrategyResult(
        name=name,
        kind="baseline",
        predictions=tuple(predictions),
        scores=tuple(task.score(predictions, task.test)),
        tokens_per_request=0.0,
        ms_per_request=ms,
        trained_parameters=parameters,
        rows=len(task.train),
        detail=detail,
    )
