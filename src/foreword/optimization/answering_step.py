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
from foreword.optimization.journal import Journal
from foreword.tasks import Row, Task


class AnsweringStep:
    """The step of `chain` that answers, behind the steps before it on `model`. What they said is kept in `journal`.

    Raises ForewordError where the model cannot run one of their prompts.
    """

    def __init__(self, model: LanguageModel, chain: Chain, journal: Journal, listener: Listener = SILENT) -> None:
        place = [step.name for step in chain.steps].index(chain.output)
        before = chain.steps[:place]
        self.calls = 0
        """Rows that the steps before were asked; what the journal had is not counted."""
        self._chain, self._step, self._journal, self._listener = chain, chain.steps[place], journal, listener
        self._before = ChainStrategy(replace(chain, steps=before, output=before[-1].name), model) if before else None

    def task(self, task: Task, train: int, seed: int) -> Task:
        """The task of this step, with `train` training rows drawn by `seed`, all dev rows, and no test rows yet.

        Raises ForewordError where the steps before the answer give no dev row a valid answer.
        """
        drawn = random.Random(seed).sample(task.train, min(train, len(task.train)))
        derived = replace(
            task,
            inputs=tuple(self._step.expressions),
            train=self.rows(drawn, "training"),
            dev=self.rows(task.dev, "dev"),
            test=(),
        )
        if task.dev and not derived.dev:
            raise ForewordError(f"chain {self._chain.name!r}: no dev row of task {task.name!r} reaches its last step")
        return derived

    def rows(self, rows: Sequence[Row], split: str) -> tuple[Row, ...]:
        """`rows` as this step meets them. One that a step before cannot answer is left out, and that is told."""
        new = [row for row in rows if self._journal.get(_key(row)) is None]
        if new:
            self._journal.put({_key(row): outcome for row, outcome in zip(new, self._ask(new, split), strict=True)})
        outcomes = [_checked(self._journal.get(_key(row)), row) for row in rows]
        if lost := [problem for _, problem in outcomes if problem is not None]:
            self._listener.say(f"{len(lost)} of {len(rows)} {split} rows do not reach the last step: {lost[0]}")
        return tuple(
            replace(row, inputs=inputs)
            for row, (inputs, problem) in zip(rows, outcomes, strict=True)
            if problem is None
        )

    def _ask(self, rows: Sequence[Row], split: str) -> list[dict[str, object]]:
        """For each row the inputs of this step, or the problem of a step before."""
        values: list[dict[str, object]] = [dict(self._chain.take(row.inputs, row.id)) for row in rows]
        problems: list[str | None] = [None for _ in rows]
        if self._before is not None:
            results = self._before.batch(values, counter(self._listener, f"{self._chain.name}: {split} rows"))
            self.calls += sum(result.usage.calls for result in results)
            for i, result in enumerate(results):
                problems[i] = result.problem
                values[i] |= {name: step.parsed for name, step in result.steps.items()}
        return [self._inputs(own, problem) for own, problem in zip(values, problems, strict=True)]

    def _inputs(self, values: dict[str, object], problem: str | None) -> dict[str, object]:
        if problem is None:
            try:
                return {"inputs": {name: _text(value) for name, value in self._step.inputs(values).items()}}
            except ForewordError as error:  # what a step before said does not fit here
                problem = str(error)
        return {"problem": problem}


def _key(row: Row) -> str:
    return f"step {row.id}"


def _checked(outcome: object, row: Row) -> tuple[dict[str, str], str | None]:
    """Inputs and problem as the journal has them. Raises ForewordError where no search has written that."""
    match outcome:
        case {"problem": str(problem)}:
            return {}, problem
        case {"inputs": dict(inputs)} if all(isinstance(text, str) for pair in inputs.items() for text in pair):
            return inputs, None
    raise ForewordError(f"the journal says {outcome!r:.80} of {row.id!r}, which no search writes; delete it")


def _text(value: object) -> str:
    """As a row of a task has it: what is no text is written as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
