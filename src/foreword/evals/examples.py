"""Few-shot demonstrations: chooses the solved training rows that a prompt begins with. Knows rows; knows no models."""

import random

from foreword.errors import UsageError
from foreword.prompts import Prompt, expect_prompt
from foreword.prompts import few_shot as prepend_examples
from foreword.tasks import Row, Task


def few_shot(prompt: Prompt, task: Task, count: int, seed: int | None = None) -> Prompt:
    """Return `prompt` with `count` solved training rows in front, balanced over the labels, in random order.

    The order matters to small models (Lu 2022); its seed is the task's unless `seed` is given. Raises UsageError if
    there are fewer than `count` training rows.
    """
    if not 1 <= count <= len(task.train):
        raise UsageError(f"few_shot: count must be 1 to {len(task.train):,}, the training rows; not {count}")
    expect_prompt(prompt)
    rng = random.Random(task.seed if seed is None else seed)
    rows = rng.sample(task.train, len(task.train))
    if task.choices is not None:
        groups = [[row for row in rows if row.target == choice] for choice in task.choices]
        rows = [row for round_of_labels in _round_robin(groups) for row in round_of_labels]
    chosen = rows[:count]
    rng.shuffle(chosen)
    return prepend_examples(prompt, [(prompt.take_texts(row.inputs, row.id), row.target) for row in chosen])


def _round_robin(groups: list[list[Row]]) -> list[list[Row]]:
    """Return rounds of rows: the first row of every label, then the second of every label …"""
    longest = max(map(len, groups))
    return [[group[i] for group in groups if i < len(group)] for i in range(longest)]
