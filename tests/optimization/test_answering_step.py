"""A chain is searched in the step that answers: as the prompt alone is, on the rows that reach it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from follower import Follower, task
from foreword.backbone import Answer
from foreword.errors import ForewordError, UsageError
from foreword.flows import Chain
from foreword.optimization import optimize
from foreword.optimization.answering_step import AnsweringStep
from foreword.optimization.journal import Journal
from foreword.prompts import Prompt
from foreword.table import PromptTable
from heard import Heard

START = Prompt("start", "Review: {{ text }}\nSentiment:")
CHAIN = """inputs: [text]
steps:
  - {call: pass, as: passed, with: {text: "{{ text }}"}}
  - {call: start, as: verdict, with: {text: "{{ passed }}"}}
output: verdict
"""


class Passing(Follower):
    """Its first step hands a row on in capitals, and has no answer to some; the second reads it as a follower does."""

    def __init__(self, refuses: str = "nothing") -> None:
        super().__init__()
        self._refuses, self.passed = refuses, 0

    def answer(self, prompt: Prompt, rows: Any, sampling: Any = None, on_rows: Any = None) -> list[Answer]:
        if prompt.name != "pass":
            return super().answer(prompt, [{"text": row["text"].lower()} for row in rows], sampling, on_rows)
        self.passed += len(rows)
        return [
            Answer(text, None, None, 1, 1, problem="it says nothing")
            if self._refuses in text
            else Answer(text.upper(), text.upper(), None, 1, 1)
            for text in (row["text"] for row in rows)
        ]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    table = PromptTable.open(tmp_path / "table.db")
    table.put(Prompt("pass", "{{ text }}"))
    table.put(START)
    (tmp_path / "chain.yaml").write_text(CHAIN)
    return Chain.load(tmp_path / "chain.yaml", table)


def test_the_last_step_is_searched_and_the_others_are_run_once_a_row(chain: Chain) -> None:
    model = Passing()
    result = optimize(model, task(), chain, budget="1500calls")
    assert result.improved
    assert result.prompt.name == "start"
    assert result.prompt.body.endswith(" is")
    assert result.test is not None
    assert result.test.rows == 120
    assert result.test.difference.low > 0
    assert model.passed == 150 + 60 + 120, "training, dev and, at the end, test rows"


def test_a_search_goes_on_without_asking_the_steps_again(chain: Chain, tmp_path: Path) -> None:
    first = optimize(Passing(), task(), chain, budget="1500calls", folder=tmp_path / "search")
    again = Passing()
    second = optimize(again, task(), chain, budget="1500calls", folder=tmp_path / "search")
    assert again.passed == 0
    assert second.prompt == first.prompt
    assert first.calls == second.calls + 150 + 60 + 120
    other = replace(chain, steps=(replace(chain.steps[0], prompt=Prompt("pass", "Say: {{ text }}")), chain.steps[1]))
    with pytest.raises(UsageError, match="of another search: its chain differs"):
        optimize(Passing(), task(), other, budget="1500calls", folder=tmp_path / "search")


def test_what_cannot_be_searched_is_told_before_a_step_is_asked(chain: Chain) -> None:
    model = Passing()
    soft = chain.ending(Prompt("start", "{{ virtual(2) }}{{ text }}"))
    with pytest.raises(UsageError, match="is soft"):
        optimize(model, task(), soft)
    with pytest.raises(ForewordError, match="no dev rows"):
        optimize(model, task(dev=()), chain)
    assert model.passed == 0


def test_rows_that_do_not_get_that_far_are_left_out_and_told(chain: Chain) -> None:
    heard = Heard()
    step = AnsweringStep(Passing(refuses="dev 3"), chain, Journal(None, {}), heard)
    found = step.task(task(), 40, 0)
    assert (len(found.train), found.test) == (40, ())
    assert [row.id for row in found.dev] == [f"dev:{i}" for i in range(60) if not str(i).startswith("3")]
    assert found.dev[0].inputs == {"text": "FINE DEV 0"}
    [said] = heard.said
    assert said.startswith("11 of 60 dev rows do not reach the last step: chain 'chain', step 'passed', ")
    with pytest.raises(ForewordError, match="no dev row of task 'toy' reaches its last step"):
        AnsweringStep(Passing(refuses="dev"), chain, Journal(None, {})).task(task(), 40, 0)


def test_a_chain_of_one_step_is_its_prompt(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        'inputs: [text]\nsteps: [{call: start, as: verdict, with: {text: "{{ text }}"}}]\noutput: verdict\n'
    )
    one = Chain.load(tmp_path / "one.yaml", PromptTable.open(tmp_path / "table.db"))
    found = AnsweringStep(Passing(), one, Journal(None, {})).task(task(), 150, 0)
    assert found.dev == task().dev
    assert sorted(row.id for row in found.train) == sorted(row.id for row in task().train)
    assert chain.last == one.last
