"""Demonstrations for a task: which training rows stand in front of a prompt. Knows rows; knows no models."""

import random

from foreword.errors import UsageError
from foreword.prompts import Prompt
from foreword.prompts import few_shot as written
from foreword.prompts.prompt import expect_prompt
from foreword.tasks import Row, Task


def few_shot(prompt: Prompt, task: Task, count: int, seed: int | None = None) -> Prompt:
    """`prompt` with `count` solved training rows in front, the labels balanced, in random order.

    The order is seeded by the task unless `seed` is given; it matters to small models (Lu 2022).
    """
    if not 1 <= count <= len(task.train):
        raise UsageError(f"few_shot: count must be 1 to {len(task.train):,}, the training rows; not {count}")
    expect_prompt(prompt)
    rng = random.Random(task.seed if seed is None else seed)
    rows = rng.sample(task.train, len(task.train))
    if task.choices is not None:
        groups = [[row for row in rows if row.target == choice] for choice in task.choices]
        rows = [row for turn in _turns(groups) for row in turn]
    chosen = rows[:count]
    rng.shuffle(chosen)
    return written(prompt, [(prompt.take_texts(row.inputs, row.id), row.target) for row in chosen])


def _turns(groups: list[list[Row]]) -> list[list[Row]]:
    """One row of every label, then another of every label …"""
    longest = max(map(len, groups))
    return [[group[i] for group in groups if i < len(group)] for i in range(longest)]
