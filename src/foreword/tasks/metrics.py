"""How well one prediction meets one target, from 0 to 1. Knows strings only; means and intervals are made elsewhere."""

import re
import string
from collections import Counter
from collections.abc import Callable

from foreword.registry import Registry

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def accuracy(prediction: str, target: str) -> float:
    """1 when the two strings are the same, character for character."""
    return float(prediction == target)


def exact_match(prediction: str, target: str) -> float:
    """1 when the two are the same once normalised (SQuAD; Rajpurkar et al. 2016, section 6.1)."""
    return float(normalise(prediction) == normalise(target))


def f1(prediction: str, target: str) -> float:
    """Harmonic mean of precision and recall over the normalised words, as bags (SQuAD; Rajpurkar et al. 2016, 6.1).

    Where one side has no words left, 1 if neither has any, else 0, as SQuAD 2.0 scores an empty answer.
    """
    predicted, wanted = normalise(prediction).split(), normalise(target).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    shared = sum((Counter(predicted) & Counter(wanted)).values())
    return 2 * shared / (len(predicted) + len(wanted))


def normalise(text: str) -> str:
    """SQuAD's form for comparing answers: lower case, no ASCII punctuation, no English articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


Metric = Callable[[str, str], float]
"""Called with (prediction, target): how good the prediction is, from 0 to 1; a function, or an object."""

METRICS: Registry[Metric] = Registry(
    "foreword.metrics", {"accuracy": accuracy, "exact_match": exact_match, "f1": f1}, callable
)
"""By the name that a task file gives; other packages add theirs by an entry point in `foreword.metrics`."""
