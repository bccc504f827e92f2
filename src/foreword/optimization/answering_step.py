"""The answering step of a chain as a task of its own: its rows are what the steps before it make of the task's rows.

The steps before stay as they are, so each row passes through them once, whatever is tried behind them.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace

from foreword.backbone import LanguageModel
from foreword.errors import ForewordError
from foreword.flows import Chain, ChainStrategy
from foreword.listen import SILENT, Listener, counter
from foreword.tasks import Row, Task


class AnsweringStep:
    """The step of `chain` that answers, behind the steps before it on `model`.

    Raises ForewordError where the model cannot run one of their prompts.
    """

    def __init__(self, model: LanguageModel, chain: Chain) -> None:
        names = [step.name for step in chain.steps]
        place = names.index(chain.output)
        self._chain, self._step = chain, chain.steps[place]
        before = chain.steps[:place]
        self._before = ChainStrategy(replace(chain, steps=before, output=before[-1].name), model) if before else None

    def task(self, task: Task, train: int, seed: int, listener: Listener = SILENT) -> Task:
        """The task of this step, with `train` training rows drawn by `seed`, all dev rows, and no test rows yet.

        Raises ForewordError where the steps before the answer give no row a valid answer.
        """
        drawn = random.Random(seed).sample(task.train, min(train, len(task.train)))
        found = replace(
            task,
            inputs=tuple(self._step.expressions),
            train=self.rows(drawn, "training", listener),
            dev=self.rows(task.dev, "dev", listener),
            test=(),
        )
        if task.dev and not found.dev:
            raise ForewordError(f"chain {self._chain.name!r}: no dev row of task {task.name!r} reaches its last step")
        return found

    def rows(self, rows: Sequence[Row], split: str, listener: Listener = SILENT) -> tuple[Row, ...]:
        """`rows` as this step meets them. One that a step before cannot answer is left out, and that is told."""
        inputs = [self._chain.take(row.inputs, row.id) for row in rows]
        values: list[dict[str, object]] = [dict(one) for one in inputs]
        problems: list[str | None] = [None for _ in rows]
        if self._before is not None and rows:
            results = self._before.batch(inputs, counter(listener, f"{self._chain.name}: {split} rows"))
            for i, result in enumerate(results):
                problems[i] = result.problem
                values[i] |= {name: step.parsed for name, step in result.steps.items()}
        if lost := [problem for problem in problems if problem is not None]:
            listener.say(f"{len(lost)} of {len(rows)} {split} rows do not reach the last step: {lost[0]}")
        return tuple(
            replace(row, inputs={name: _text(value) for name, value in self._step.inputs(own).items()})
            for row, own, problem in zip(rows, values, problems, strict=True)
            if problem is None
        )


def _text(value: object) -> str:
    """As a row of a task has it: what is no text is written as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
