"""A search finds what is better: with a model that says what it is told to, and once with a real one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from follower import CHOICES, Follower, task
from foreword.backbone import Answer
from foreword.budgets import parse_budget
from foreword.errors import ForewordError, UsageError
from foreword.optimization import Optimized, optimize
from foreword.prompts import Output, Prompt, Text, few_shot
from foreword.tasks import Row
from heard import Heard

START = Prompt("start", "Review: {{ text }}\nSentiment:")


class Sealed(tuple[Row, ...]):
    """Test rows that nobody may look at yet."""

    opened = False

    def __iter__(self) -> Iterator[Row]:
        assert Sealed.opened, "the test rows were read before the end"
        return super().__iter__()

    def __getitem__(self, key: Any) -> Any:
        assert Sealed.opened, "the test rows were read before the end"
        return super().__getitem__(key)


def found(**more: Any) -> Optimized:
    return optimize(Follower(), task(), START, **{"budget": "1500calls"} | more)


def same(a: Optimized, b: Optimized) -> bool:
    return {**a.to_json(), "seconds": 0} == {**b.to_json(), "seconds": 0} and a.prompt == b.prompt


def test_it_finds_the_better_words_and_opens_test_once_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from foreword.optimization import optimizer

    Sealed.opened = False
    opened: list[str] = []

    def test(*arguments: Any) -> Any:
        Sealed.opened = True
        opened.append(arguments[3].body)
        return measured(*arguments)

    measured = optimizer._measure_on_test
    monkeypatch.setattr(optimizer, "_measure_on_test", test)
    heard = Heard()
    data = task(test=Sealed(task().test))
    result = optimize(Follower(), data, START, budget="1500calls", listener=heard)
    assert result.improved
    assert opened == [result.prompt.body]
    assert result.prompt.body.endswith(" is")
    assert result.history[0].body == START.body
    assert result.dev > result.start_dev + 0.1
    assert result.test is not None
    assert result.test.difference.low > 0
    assert result.verdict.startswith("The new prompt answers ")
    assert result.prompt.name == "start"
    assert result.prompt.variables == START.variables
    assert result.prompt.output == Output(choices=CHOICES)
    assert result.prompt.labelled_rows == 75 + 75
    calls = [done for name, done, total in heard.stages if name == "calls" and total == 1500]
    best = [float(figures.split()[2].rstrip(",")) for figures in heard.figures if figures.startswith("best dev")]
    assert len(calls) == len(best) >= 3
    assert best == sorted(best)
    assert calls[-1] <= 1500
    assert sum("calls  dev" in said for said in heard.said) == len(set(best))
    again = optimize(Follower(), task(), START, budget="1500calls")
    assert same(result, again), "the seed decides"
    assert not same(result, found(seed=1))


def test_a_search_that_was_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = found()
    with pytest.raises(ForewordError, match="the model is gone"):
        optimize(Follower(fails_after=500), task(), START, budget="1500calls", folder=tmp_path)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"key": "half a li')
    model = Follower()
    assert same(optimize(model, task(), START, budget="1500calls", folder=tmp_path), whole)
    replayed = Follower()
    assert same(optimize(replayed, task(), START, budget="1500calls", folder=tmp_path), whole)
    assert replayed.asked < model.asked <= whole.calls + 240
    with pytest.raises(UsageError, match="of another search: its seed differs"):
        optimize(Follower(), task(), START, seed=1, folder=tmp_path)
    key = json.loads(journal.read_text().splitlines()[1])["key"]
    journal.write_text(journal.read_text().splitlines()[0] + "\n" + json.dumps({"key": key, "value": {}}) + "\n")
    with pytest.raises(ForewordError, match="no search writes"):
        optimize(Follower(), task(), START, folder=tmp_path)
    journal.write_bytes(b"\x80\x04\x95pickle\n")
    with pytest.raises(ForewordError, match="choose another folder"):
        optimize(Follower(), task(), START, folder=tmp_path)


def test_ctrl_c_ends_the_search_and_keeps_the_best() -> None:
    class Impatient(Heard):
        def stage(self, name: str, done: int, total: int, figures: str = "") -> None:
            super().stage(name, done, total, figures)
            if name == "calls" and float(figures.split()[2].rstrip(",")) > 0.7:
                os.kill(os.getpid(), signal.SIGINT)

    result = found(budget="1h", listener=Impatient())
    assert (result.stopped, result.improved) == ("interrupted", True)
    assert result.test is not None


def test_another_process_searches_alike() -> None:
    script = (
        "import json, sys; from test_optimizer import found\n"
        "print(json.dumps({**found().to_json(), 'seconds': 0}, sort_keys=True))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": paths}  # sets of texts are in another order there
    told = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True).stdout
    assert json.loads(told) == json.loads(json.dumps({**found().to_json(), "seconds": 0}))


class Writer:
    """A model that proposes what it is told to, in turn."""

    name, parallel = "writer", 1

    def __init__(self, *said: str) -> None:
        self.said, self.asked = list(said), []

    def check(self, prompt: Prompt) -> None: ...

    def answer(self, prompt: Prompt, rows: Sequence[Any], *_: Any) -> list[Answer]:
        self.asked += ["".join(p.text for p in prompt.render(row) if isinstance(p, Text)) for row in rows]
        return [Answer(self.said.pop(0) if self.said else "", None, None, 1, 1)]


def test_proposals_of_a_model_are_checked_before_they_cost_anything() -> None:
    chat = Prompt("start", "{{ user() }}Review: {{ text }}\nSentiment:{{ assistant() }}")
    wrong = {
        "```\n{{ user() }}Is it good?{{ assistant() }}\n```": "it takes [] in the place of ['text']",
        "{{ user() }}{{ text }} {{ stars }}{{ assistant() }}": "'stars'",
        "{{ user() }}{{ text }{{ assistant() }}": "mend the template",
        "{{ text }}": "it has the roles [] in the place of ['user', 'assistant']",
        "{{ user() }}{{ virtual(3) }}{{ text }}{{ assistant() }}": "virtual tokens are learned",
        "{{ user() }}{% if false %}{{ text }}{% endif %}{{ assistant() }}": "",
        "{{ user() }}{{ text | truncate(2) }}{{ assistant() }}": "it names 'text' and does not show it",
        '{% include "secret@1" %}{{ user() }}{{ text }}{{ assistant() }}': "secret",
        "{{ user() }}{{ text * 9999999 }}{{ assistant() }}": "",
    }
    good = "Here you go:\n```jinja\n{{ user() }}All in all, {{ text }} is{{ assistant() }}\n```"
    writer = Writer(*wrong, good)
    result = optimize(Follower(), task(), chat, budget="3000calls", proposer=writer)
    for reason in wrong.values():
        assert any(reason in told for told in result.refused), reason
    assert len(result.refused) >= len(wrong)
    assert "Review: {{ text }}" in writer.asked[0]
    assert "right is 'good'" in writer.asked[0]
    assert not any("dev" in question or "test" in question.split("Reply")[0] for question in writer.asked), (
        "train alone"
    )


def test_what_cannot_be_searched_is_told_before_anything_is_asked() -> None:
    model = Follower()
    for data, prompt, budget, message in (
        (task(), Prompt("p", "{{ virtual(4) }}{{ text }}"), "9m", "is soft"),
        (task(), Prompt("p", "Hello"), "9m", "shows no row"),
        (task(dev=()), START, "9m", "no dev rows"),
        (task(train=()), START, "9m", "0 training rows"),
        (task(), START, "soon", "write it as"),
    ):
        with pytest.raises(ForewordError, match=message):
            optimize(model, data, prompt, budget=budget)
    assert model.asked == 0
    with pytest.raises(UsageError, match="give at least 192calls"):
        optimize(model, task(), START, budget="100calls")
    assert (parse_budget("1.5h", "calls"), parse_budget("400calls", "calls")) == ((5400.0, None), (None, 400))


def test_where_nothing_is_better_the_start_stays_and_test_closed() -> None:
    class Deaf(Follower):
        def _say(self, prompt: Prompt, row: Any) -> str:  # noqa: ARG002
            return "good"

    Sealed.opened = False
    result = optimize(Deaf(), task(test=Sealed(task().test)), START, budget="600calls")
    assert (result.improved, result.test, result.prompt.body) == (False, None, START.body)
    assert result.verdict == "Nothing that was tried does better on dev than start; keep it. Test stays closed."


def test_a_prompt_that_shows_rows_already_is_searched_too() -> None:
    shown = few_shot(START, [({"text": "poor 1"}, "bad")]).replace(name="start")
    result = optimize(Follower(), task(), shown, budget="1500calls")
    assert result.improved
    free = replace(task(), choices=None, metric="exact_match")
    assert optimize(Follower(), free, START, budget="1500calls").tried > 2
