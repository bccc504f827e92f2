"""Training rows as tokens, and which of them a step reads. Knows no training."""

import random
from dataclasses import dataclass, replace
from functools import lru_cache

from foreword.backbone import Backbone, Example
from foreword.backbone.encode import Ids, shared_front
from foreword.errors import ForewordError
from foreword.prompts import Prompt
from foreword.tasks import Row, Task


@dataclass(frozen=True)
class TrainingRows:
    """All training rows, encoded once."""

    front: Ids
    """[F] what all of them begin with."""
    examples: list[Example]
    """The rest of each."""
    right: list[int]
    """Which of an example's answers is the target."""

    def batch(self, step: int, size: int, seed: int) -> tuple[list[Example], list[int]]:
        """The rows of a step: a new order every epoch, known from the seed alone, as resuming needs."""
        n = len(self.examples)
        places = range(step * size, (step + 1) * size)
        rows = [_order(n, seed, place // n)[place % n] for place in places]
        return [self.examples[row] for row in rows], [self.right[row] for row in rows]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}-{epoch}").sample(range(n), n)


def encode_rows(backbone: Backbone, prompt: Prompt, task: Task, objective: str) -> TrainingRows:
    """Encode the training rows; look at dev and test rows too, so that a bad one is told before hours of work."""
    end = (backbone.tokenizer.eos_token_id,) if task.choices is None else ()
    whole: list[Example] = []
    right: list[int] = []
    for row in task.train:
        answers = task.choices if objective == "choices" and task.choices else (row.target,)
        example = _example(backbone, prompt, row, answers)
        whole.append(replace(example, answers=tuple((*answer, *end) for answer in example.answers)))
        right.append(answers.index(row.target))
    for row in (*task.dev, *task.test):
        _example(backbone, prompt, row, task.choices or (row.target,))
    F = shared_front([example.question for example in whole])
    examples = [replace(example, question=example.question[F:]) for example in whole]
    return TrainingRows(whole[0].question[:F], examples, right)


def _example(backbone: Backbone, prompt: Prompt, row: Row, answers: tuple[str, ...]) -> Example:
    inputs = prompt.take(row.inputs, row.id)
    try:
        example = backbone.example(prompt, inputs, answers)
    except ForewordError as error:
        raise ForewordError(f"row {row.id!r}: {error}") from error
    if len(example.question) + max(map(len, example.answers)) >= backbone.context:
        raise ForewordError(f"row {row.id!r} with its answer is longer than the model's {backbone.context:,} tokens")
    return example
