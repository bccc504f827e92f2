"""The seam: what can answer rows is measured alike, and its figures are those of the naive count."""

from dataclasses import replace
from functools import cache, partial
from itertools import takewhile
from typing import Any

import pytest

import tiny
from foreword.backbone import Sampling
from foreword.errors import ForewordError, UsageError
from foreword.flows import Chain, Cost, Function, Program, Result, Strategy, Usage, bind, measure
from foreword.prompts import Input, Output, Prompt
from foreword.table import PromptTable
from foreword.tasks import Row, Task

backbone = cache(tiny.backbone)
CHOICES = ("bad", "rather good")
HARD = Prompt("hard", "Review: {{ text }}\nSentiment:", output=Output(choices=CHOICES))
TEXTS = ("a quiet film", "silly and tedious", "a quiet, generous film")
ROWS = tuple(Row(f"row:{i}", {"text": text, "year": str(i)}, CHOICES[i % 2]) for i, text in enumerate(TEXTS))
TASK = Task("toy", ("text", "year"), CHOICES, "accuracy", 7, ROWS, ROWS, ROWS, ())


@pytest.fixture
def chain(tmp_path: Any) -> Chain:
    table = PromptTable.open(tmp_path / "table.db")
    table.put(Prompt("shorten", "Shorten: {{ text }}\nShort:"))
    table.put(Prompt("judge", "Review: {{ text }}\nSentiment:"))
    (tmp_path / "chain.yaml").write_text(
        "inputs: [text]\nsteps:\n"
        '  - {call: shorten, as: short, with: {text: "{{ text }}"}}\n'
        '  - {call: judge, as: verdict, with: {text: "{{ short }}"}}\noutput: verdict\n'
    )
    return Chain.load(tmp_path / "chain.yaml", table)


def says_good(text: str, year: str = "never") -> str:
    """Good where the film is quiet."""
    assert year != "never"
    return CHOICES["quiet" in text]


class Constant:
    """A strategy by shape alone, as another package would write it."""

    name, kind, takes, cost, detail = "constant", "baseline", (), Cost(labelled_rows=3), "always bad"

    def take(self, row: Any, where: str) -> Any:  # noqa: ARG002
        return {}

    def batch(self, rows: Any, on_rows: Any = None) -> list[Result[str]]:  # noqa: ARG002
        return [Result("bad", "bad", Usage(), 0.0) for _ in rows]


def test_scored_choices_cost_what_a_naive_count_gives() -> None:
    model = backbone("llama")
    measured = measure(bind(HARD, model), TASK, TASK.test)
    tokens = [list(model.encode(HARD, {"text": text}).ids) for text in TEXTS]
    shared = len(list(takewhile(lambda at: len(set(at)) == 1, zip(*tokens, strict=False))))
    answers = [len(model.example(HARD, {"text": TEXTS[0]}, [choice]).answers[0]) for choice in CHOICES]
    assert shared > 0
    assert measured.usage == Usage(
        prompt_tokens=sum(map(len, tokens)),
        completion_tokens=0,
        cached_tokens=shared * len(TEXTS),
        scored_tokens=sum(answers) * len(TEXTS),
        calls=len(TEXTS),
    )
    assert measured.usage.computed_tokens == sum(len(ids) - shared + sum(answers) for ids in tokens)


def test_a_model_that_computes_no_shared_prefix_claims_none() -> None:
    model = backbone("t5")
    usage = measure(bind(HARD, model), TASK, TASK.test).usage
    assert not model.packs
    assert (usage.cached_tokens, usage.calls) == (0, 3)


def test_what_is_written_is_counted_and_nothing_else() -> None:
    free = Program(HARD.replace(output=Output()), backbone("llama"), sampling=Sampling(5))
    usage = free(text="a quiet film").usage
    assert usage.computed_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 5


def test_prompts_chains_functions_and_strangers_are_measured_alike(chain: Chain) -> None:
    model = backbone("llama")
    texts = [{"text": text} for text in TEXTS]
    by_hand = [
        Program(chain.steps[1].prompt.answering(CHOICES), model)(text=short.value).value
        for short in Program(chain.steps[0].prompt, model).batch(texts)
    ]
    cases: list[tuple[Any, str, str, list[Any], int]] = [
        (HARD, "hard", "hard", [answer.value for answer in model.answer(HARD, texts)], 3),
        (chain, "chain", "flow", by_hand, 6),
        (says_good, "says_good", "flow", [CHOICES[1], CHOICES[0], CHOICES[1]], 0),
        (Constant(), "constant", "baseline", ["bad"] * 3, 0),
        (Program(HARD, model), "hard", "hard", [answer.value for answer in model.answer(HARD, texts)], 3),
    ]
    for item, name, kind, answers, calls in cases:
        strategy = bind(item, model, task=TASK)
        assert isinstance(strategy, Strategy)
        heard: list[tuple[int, int]] = []
        measured = measure(strategy, TASK, TASK.test, lambda *rows: heard.append(rows))  # noqa: B023
        assert (strategy.name, strategy.kind) == (name, kind)
        assert list(measured.answers) == answers
        assert measured.scores == tuple(float(a == row.target) for a, row in zip(answers, ROWS, strict=True))
        assert measured.usage.calls == calls
        assert not heard or heard[-1][0] == heard[-1][1]
    assert bind(says_good, model).detail == "Good where the film is quiet."


def test_a_chain_answers_a_tasks_choices_at_its_end_and_refuses_others(chain: Chain) -> None:
    model = backbone("llama")
    strategy = bind(chain, model, task=TASK)
    results = strategy.batch([{"text": "a quiet film"}])
    assert results[0].text in CHOICES
    assert results[0].steps["short"].usage.completion_tokens > 0
    with pytest.raises(UsageError, match="chain 'chain', step 'verdict': prompt 'judge' answers"):
        bind(chain.answering(CHOICES), model, task=replace(TASK, choices=("yes", "no")))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda *texts: texts[0], r"'<lambda>' has the parameter '\*texts'"),
        (lambda **row: row["x"], "given by keyword, so name each one"),
        (Constant, "is a class; give an object of it"),
        ("hard", "Prompt"),
        (3, "give a Prompt"),
    ],
)
def test_what_cannot_answer_rows_is_refused_before_any_is_read(item: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(item, backbone("llama"))


def test_an_async_function_is_told_so() -> None:
    async def later(text: str) -> str:
        return text

    with pytest.raises(UsageError, match="'later' is an async function"):
        bind(later, backbone("llama"))


def test_a_function_that_fails_is_named_with_its_row() -> None:
    def broken(text: str) -> Any:
        return {"a quiet film": "bad"}.get(text, 7) if text != TEXTS[2] else text[99]

    strategy = bind(broken, backbone("llama"))
    with pytest.raises(ForewordError, match="'broken' returned 7 on row 1; return a text"):
        measure(strategy, TASK, TASK.test)
    with pytest.raises(ForewordError, match="'broken' raised IndexError on row 0"):
        measure(strategy, TASK, TASK.test[2:])
    with pytest.raises(UsageError, match="row:0: 'needs' needs the input 'place'"):
        measure(Function.of(lambda place: place, "needs"), TASK, TASK.test)
    assert Function.of(partial(says_good, year="1999")).takes == ("text",)


def test_a_strategy_that_loses_rows_is_refused() -> None:
    class Short(Constant):
        def batch(self, rows: Any, on_rows: Any = None) -> list[Result[str]]:
            return super().batch(rows, on_rows)[1:]

    with pytest.raises(ForewordError, match="'constant' gave 2 results for 3 rows"):
        measure(Short(), TASK, TASK.test)


def test_a_text_is_read_as_the_type_that_a_prompt_declares() -> None:
    typed = HARD.replace(body="{{ text }} {{ year + 1 }}", inputs={"text": Input(), "year": Input(type="integer")})
    strategy = bind(typed, backbone("llama"))
    assert strategy.take(ROWS[1].inputs, "here") == {"text": TEXTS[1], "year": 1}
    with pytest.raises(UsageError, match=r"here: .*'year'"):
        strategy.take({"text": "x", "year": "soon"}, "here")


def test_what_a_function_asks_of_models_is_its_rows_cost() -> None:
    program = Program(HARD, backbone("llama"))

    def twice(text: str) -> str:
        first = program(text=text)
        return program(text=f"{text} {first.value}").text

    def once(text: str) -> Result[Any]:
        return program(text=text)

    found = measure(bind(twice, backbone("llama")), TASK, TASK.test)
    assert found.usage.calls == 2 * len(TEXTS)
    assert found.usage.prompt_tokens > 0
    single = measure(bind(once, backbone("llama")), TASK, TASK.test)
    assert single.usage == measure(bind(HARD, backbone("llama")), TASK, TASK.test).usage
    assert min(found.seconds) > 0


def test_what_a_partial_has_decided_no_row_changes() -> None:
    def says(text: str, label: str = "bad") -> str:
        return f"{label} {text}"

    strategy = Function.of(partial(says, label="bound"), "says")
    assert (strategy.takes, strategy.optional) == (("text",), ())
    assert strategy.batch([strategy.take({"text": "x", "label": "row"}, "here")])[0].text == "bound x"


@pytest.mark.parametrize(
    "given",
    [
        None,
        (Result("bad", "bad", Usage(), 0.0) for _ in range(3)),
        ["bad"] * 3,
        [Result(None, None, Usage(), 0.0)] * 3,  # type: ignore[arg-type]
        [Result("bad", "bad", Usage(), float("nan"))] * 3,
    ],
)
def test_what_is_no_list_of_results_is_told(given: Any) -> None:
    class Wrong(Constant):
        def batch(self, rows: Any, on_rows: Any = None) -> Any:  # noqa: ARG002
            return given

    with pytest.raises(ForewordError, match=r"'constant' gave .*; its batch returns a list of Results"):
        measure(Wrong(), TASK, TASK.test)


def test_a_kind_that_there_is_not_is_refused() -> None:
    class Odd(Constant):
        kind = "weird"

    with pytest.raises(UsageError, match="'constant' is of kind 'weird'; it is one of baseline, hard"):
        bind(Odd(), backbone("llama"))


def test_a_row_that_does_not_fit_a_later_step_is_one_rows_problem(tmp_path: Any) -> None:
    table = PromptTable.open(tmp_path / "table.db")
    table.put(Prompt("say", "{{ text }}", output=Output(choices=("1", "one"))))
    table.put(Prompt("count", "{{ n + 1 }}", {"n": Input(type="integer")}, Output(choices=CHOICES)))
    (tmp_path / "chain.yaml").write_text(
        "inputs: [text]\nsteps:\n"
        '  - {call: say, as: said, with: {text: "{{ text }}"}}\n'
        '  - {call: count, as: verdict, with: {n: "{{ said }}"}}\noutput: verdict\n'
    )
    model = backbone("llama")
    rows = [{"text": f"{text} {i}"} for text in TEXTS for i in range(8)]
    first = [result.value for result in Program(table.get("say"), model).batch(rows)]
    assert set(first) == {"1", "one"}, "rows of both kinds"
    results = Program(Chain.load(tmp_path / "chain.yaml", table), model).batch(rows)
    for said, result in zip(first, results, strict=True):
        assert (result.problem is None) == (said == "1")
        assert said == "1" or "step 'verdict': " in (result.problem or "")
