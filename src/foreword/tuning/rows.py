"""Training rows as tokens, and which of them a step reads. Knows no training."""

import random
from dataclasses import dataclass, replace
from functools import lru_cache

from foreword.backbone import Backbone, Example, Ids, shared_prefix_length
from foreword.errors import ForewordError
from foreword.prompts import Prompt
from foreword.tasks import Row, Task

Batch = tuple[list[Example], list[int]]
"""Rows, and which of each one's answers is the target."""
POOL = 8
SAMPLED_NEGATIVES = 7
"""Wrong choices that a row's right one is told from in a step; where a task has more, each step draws others."""


@dataclass(frozen=True)
class TrainingRows:
    """All training rows, encoded once."""

    shared_prefix: Ids
    """[F] what all of them begin with."""
    examples: list[Example]
    """The rest of each."""
    right: list[int]
    """Which of an example's answers is the target."""
    longest: int
    """Text tokens of the longest row, its answer not counted."""

    def seen(self, steps: int, size: int) -> int:
        """Rows that so many steps have read, repeats counted; to within a batch inside an epoch."""
        per_epoch = -(-len(self.examples) // size)
        return steps // per_epoch * len(self.examples) + min(steps % per_epoch * size, len(self.examples))

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """The rows of a step, known from the seed alone, as resuming needs."""
        lengths = tuple(map(len, self.examples))
        per_epoch = -(-len(lengths) // size)
        rows = _epoch(lengths, size, seed, step // per_epoch)[step % per_epoch]
        drawn = [_drawn(self.examples[row], self.right[row], random.Random(f"{seed}-{step}-{row}")) for row in rows]
        return [example for example, _ in drawn], [right for _, right in drawn]


def _drawn(example: Example, right: int, rng: random.Random) -> tuple[Example, int]:
    """`example` with its right answer and at most `SAMPLED_NEGATIVES` others, and the right one's new place.

    Drawn evenly, they leave the loss its minimum (sampled softmax, Bengio and Senécal 2008), at a cost that does not
    grow with the number of choices.
    """
    others = [place for place in range(len(example.answers)) if place != right]
    if len(others) <= SAMPLED_NEGATIVES:
        return example, right
    kept = sorted([right, *rng.sample(others, SAMPLED_NEGATIVES)])
    return replace(example, answers=tuple(example.answers[place] for place in kept)), kept.index(right)


@lru_cache(maxsize=64)  # an entry for each task of a run
def _epoch(lengths: tuple[int, ...], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Batches in a new order every epoch, each row once; rows of like length share a batch, so that little is padded.

    Likeness is looked for within pools of `POOL` batches only: a batch stays a sample of all rows.
    """
    rng = random.Random(f"{seed}-{epoch}")
    rows = rng.sample(range(len(lengths)), len(lengths))
    pools = [sorted(rows[i : i + POOL * size], key=lambda row: lengths[row]) for i in range(0, len(rows), POOL * size)]
    batches = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
    rng.shuffle(batches)
    return batches


def shares(batch: int, tasks: int) -> list[int]:
    """The rows of a step that each task has: as even as can be, at least one."""
    return [max(1, batch // tasks + (task < batch % tasks)) for task in range(tasks)]


def encode_rows(backbone: Backbone, prompt: Prompt, task: Task, objective: str) -> TrainingRows:
    """Encode the training rows; look at dev and test rows too, so that a bad one is told before hours of work."""
    if not task.train:
        raise ForewordError(f"task {task.name!r} has no training rows; give it some")
    ended = task.choices is None  # free text must be told where to stop
    whole: list[Example] = []
    right: list[int] = []
    for row in task.train:
        answers = task.choices if objective == "choices" and task.choices else (row.target,)
        whole.append(_example(backbone, prompt, row, answers, ended))
        right.append(answers.index(row.target))
    for row in (*task.dev, *task.test):
        _example(backbone, prompt, row, task.choices or (row.target,), ended)
    F = shared_prefix_length([example.question for example in whole])
    examples = [replace(example, question=example.question[F:]) for example in whole]
    longest = max(int((e.question >= 0).sum()) for e in whole)
    return TrainingRows(whole[0].question[:F], examples, right, longest)


def _example(backbone: Backbone, prompt: Prompt, row: Row, answers: tuple[str, ...], ended: bool) -> Example:
    inputs = prompt.take_texts(row.inputs, row.id)
    try:
        example = backbone.example(prompt, inputs, answers, ended=ended)
    except ForewordError as error:
        raise ForewordError(f"row {row.id!r}: {error}") from error
    if backbone.architecture.span(len(example.question), max(map(len, example.answers))) > backbone.context:
        raise ForewordError(f"row {row.id!r} with its answer is longer than the model's {backbone.context:,} tokens")
    return example
