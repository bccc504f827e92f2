"""Choosing on dev, calibrating without labels, comparing on test: with a real, if tiny, backbone."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foreword.errors import ForewordError, UsageError
from foreword.evals import calibrate, compare, evaluate_on_dev, few_shot, gate
from foreword.evals.baselines import STRATEGIES, majority, tfidf
from foreword.evals.report import render_report
from foreword.flows import Chain, Cost, Function, Program, PromptStrategy, Usage, bind, measure
from foreword.prompts import Output, Prompt
from foreword.table import PromptTable
from foreword.tasks import Row, Task
from foreword.tuning import tune
from heard import Heard
from tiny import backbone

CHOICES = ("bad", "good")
PLAIN = Prompt("plain", "Review: {{ text }}\nSentiment:")


def task(**changes: Any) -> Task:
    rng = random.Random(0)

    def rows(name: str, count: int) -> tuple[Row, ...]:
        made = []
        for i in range(count):
            words = ["quiet", "film"] if i % 3 else ["silly", "film"]
            text = " ".join([words[0], *rng.choices(words, k=rng.randint(1, 5))])
            made.append(Row(f"{name}:{i}", {"text": text, "year": str(i)}, CHOICES[bool(i % 3)]))
        return tuple(made)

    made = Task(
        "toy", ("text", "year"), CHOICES, "accuracy", 7, rows("train", 60), rows("dev", 30), rows("test", 40), ()
    )
    return replace(made, **changes)


def test_calibration_takes_label_bias_off_without_looking_at_labels() -> None:
    model, data = backbone(), task()
    leaning = calibrate(model, PLAIN.answering(CHOICES), data.train)
    flipped = [replace(row, target=CHOICES[row.target == "bad"]) for row in data.train]
    assert calibrate(model, PLAIN.answering(CHOICES), flipped) == leaning
    scores = model.score(leaning, [{"text": row.inputs["text"]} for row in data.train]).comparable
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(np.exp(leaning.output.log_prior), shares.mean(0), atol=1e-3)


def test_dev_reports_both_forms_as_they_answer() -> None:
    model, data = backbone(), task()
    [found] = evaluate_on_dev(model, data, [PLAIN])
    for prompt, score in ((found.plain, found.plain_score), (found.calibrated, found.calibrated_score)):
        answers = model.answer(prompt, [{"text": row.inputs["text"]} for row in data.dev])
        assert score == np.mean([a.value == row.target for a, row in zip(answers, data.dev, strict=True)])
    assert found.score == max(found.plain_score, found.calibrated_score)
    with pytest.raises(ForewordError, match="no dev rows"):
        evaluate_on_dev(model, task(dev=()), [PLAIN])


def test_demonstrations_are_training_rows_balanced_by_label() -> None:
    data = task()
    shots = few_shot(PLAIN, data, 4)
    rendered = "".join(piece.text for piece in shots.render({"text": "@"}))
    assert rendered.endswith("Review: @\nSentiment:")
    examples = [block for block in rendered.split("\n\n") if "@" not in block]
    assert sorted(block.rpartition(" ")[2] for block in examples) == ["bad", "bad", "good", "good"]
    assert {block.split("\n")[0].removeprefix("Review: ") for block in examples} <= {
        r.inputs["text"] for r in data.train
    }
    assert (shots.labelled_rows, few_shot(PLAIN, data, 4), few_shot(PLAIN, data, 4, seed=1) == shots) == (
        4,
        shots,
        False,
    )
    with pytest.raises(UsageError, match="1 to 60"):
        few_shot(PLAIN, data, 61)


def test_baselines_learn_from_train_alone() -> None:
    data = task()
    assert set(measure(majority(data), data, data.test).answers) == {"good"}
    words = measure(tfidf(data), data, data.test)
    assert words.scores == (1.0,) * 40
    assert words.usage == Usage()
    shuffled = task(test=tuple(replace(row, target="bad") for row in data.test))
    assert measure(tfidf(shuffled), shuffled, shuffled.test).answers == words.answers
    assert measure(STRATEGIES["tfidf"](backbone(), data), data, data.test).answers == words.answers


def test_a_baseline_that_cannot_be_had_is_left_out_and_said() -> None:
    marks = task(train=tuple(replace(row, inputs={"text": "!?", "year": "--"}) for row in task().train))
    result = compare(backbone(), marks, [PLAIN])
    assert [s.name for s in result.strategies] == ["majority class", "plain"]
    assert any("TF-IDF is left out" in note for note in result.notes)


def test_a_comparison_holds_every_strategy_and_what_it_costs(tmp_path: Any) -> None:
    model, data = backbone(), task()
    run = tune(model, data, PLAIN, folder=tmp_path / "run", steps=4, eval_every=2, tokens=5)
    other = Prompt("other", "{{ text }} is")
    result = compare(model, data, [PLAIN, other, few_shot(PLAIN, data, 2), run])
    by_name = {strategy.name: strategy for strategy in result.strategies}
    assert [s.kind for s in result.strategies] == ["baseline", "baseline", "hard", "hard", "hard", "soft"]
    soft, plain = by_name["toy-prompt-tuning"], by_name["plain"]
    assert soft.tokens_per_request == plain.tokens_per_request + 5
    assert (soft.trained_parameters, soft.rows) == (5 * model.dimension, 60)
    assert (by_name["plain-2-shot"].rows, plain.rows) == (2, 0)
    assert soft.curve == run.curves
    assert soft.ms_per_request > 0
    [candidate] = evaluate_on_dev(model, data, [run.prompt])
    answers = model.answer(candidate.best, [{"text": row.inputs["text"]} for row in data.test])
    assert soft.predictions == tuple(answer.value for answer in answers)
    on_dev = {c.plain.name: c.score for c in evaluate_on_dev(model, data, [PLAIN, other, few_shot(PLAIN, data, 2)])}
    assert result.reference == max(on_dev, key=lambda name: on_dev[name])


@pytest.mark.parametrize("rows", [4, 40])
def test_the_page_and_the_note_say_alike_what_the_rows_can_show(rows: int) -> None:
    data = task()
    result = compare(backbone(), replace(data, test=data.test[:rows]), [PLAIN])
    [note] = [note for note in result.notes if "test rows" in note]
    page = render_report(result)
    if rows == 4:
        assert result.smallest_difference == 1
        assert note == "4 test rows are too few to show any difference; give the task more."
        assert "These are too few rows to show any difference." in page
    else:
        assert result.smallest_difference is not None
        points = f"{100 * result.smallest_difference:.1f} points"
        assert f"about {points}" in note
        assert f"about {points} often goes unseen" in page


def test_test_rows_do_not_change_what_is_chosen() -> None:
    """With every test label flipped, the same forms and the same reference are chosen."""
    model, data = backbone(), task()
    prompts = [PLAIN, Prompt("other", "{{ text }} is")]
    flipped = task(test=tuple(replace(row, target=CHOICES[row.target == "bad"]) for row in data.test))
    a, b = compare(model, data, prompts), compare(model, flipped, prompts)
    assert a.reference == b.reference
    assert [s.predictions for s in a.strategies] == [s.predictions for s in b.strategies]


def test_what_cannot_be_compared_is_said() -> None:
    model, data = backbone(), task()
    with pytest.raises(ForewordError, match="no test rows"):
        compare(model, task(test=()), [PLAIN])
    with pytest.raises(ForewordError, match="no dev rows to choose the best of 2 hard prompts"):
        compare(model, task(dev=()), [PLAIN, Prompt("other", "{{ text }} is")])
    with pytest.raises(ForewordError, match="no vectors yet"):
        compare(model, data, [PLAIN, Prompt("soft", "{{ virtual(3) }}{{ text }} is")])
    with pytest.raises(UsageError, match="two strategies are called 'plain'"):
        compare(model, data, [PLAIN, PLAIN])
    with pytest.raises(UsageError, match=r"dev:0: prompt 'p' needs the input 'title'"):
        compare(model, data, [Prompt("p", "{{ title }}")])
    with pytest.raises(UsageError, match="make them the same"):
        compare(model, data, [PLAIN.replace(output=Output(choices=("yes", "no")))])


def quiet(text: str) -> str:
    """Good where the film is quiet."""
    return CHOICES["quiet" in text]


def test_a_chain_a_function_and_a_program_stand_in_the_table(tmp_path: Any) -> None:
    model, data = backbone(), task()
    table = PromptTable.open(tmp_path / "table.db")
    table.put(Prompt("shorten", "Shorten: {{ text }}\nShort:"))
    table.put(Prompt("judge", "Review: {{ text }}\nSentiment:"))
    (tmp_path / "two-steps.yaml").write_text(
        "inputs: [text]\nsteps:\n"
        '  - {call: shorten, as: short, with: {text: "{{ text }}"}}\n'
        '  - {call: judge, as: verdict, with: {text: "{{ short }}"}}\noutput: verdict\n'
    )
    chain = Chain.load(tmp_path / "two-steps.yaml", table)
    program = Program(Prompt("program", "{{ text }} is", output=Output(choices=CHOICES)), model)
    heard = Heard()
    result = compare(model, data, [PLAIN, chain, quiet, program], listener=heard)
    kinds = {s.name: s.kind for s in result.strategies}
    assert list(kinds.items())[2:] == [("plain", "hard"), ("two-steps", "flow"), ("quiet", "flow"), ("program", "hard")]
    assert result.reference == "plain"
    flow, function = result.strategy("two-steps"), result.strategy("quiet")
    by_hand = measure(bind(chain, model, task=data), data, data.test)
    assert flow.predictions == by_hand.answers
    assert set(flow.predictions) <= set(CHOICES)
    assert (flow.calls_per_request, flow.tokens_per_request) == (2, by_hand.usage.prompt_tokens / 40)
    assert flow.computed_tokens_per_request == by_hand.usage.computed_tokens / 40
    assert flow.detail == "chain: shorten → judge"
    assert function.mean == 1.0
    assert (function.calls_per_request, function.tokens_per_request) == (0, 0)
    assert function.detail == "Good where the film is quiet."
    assert "two-steps: test" in {name for name, *_ in heard.stages}
    document = {s["name"]: s for s in result.to_json()["strategies"]}
    assert document["two-steps"]["kind"] == "flow"
    assert document["two-steps"]["calls_per_request"] == 2
    assert "quiet" in result.verdict, "the honest rival is named where it wins"
    assert "two-steps" in render_report(result)


def test_what_a_strategy_lacks_is_said_before_anything_is_measured() -> None:
    class Unheard(Heard):
        def stage(self, *_: Any) -> None:  # type: ignore[override]
            raise AssertionError("something was measured")

    def needs(title: str) -> str:
        return title

    with pytest.raises(UsageError, match="dev:0: 'needs' needs the input 'title'"):
        compare(backbone(), task(), [PLAIN, needs], listener=Unheard())
    with pytest.raises(UsageError, match="is a class; give an object of it"):
        compare(backbone(), task(), [PLAIN, dict], listener=Unheard())


def test_a_gate_takes_chains_and_functions() -> None:
    def worse(text: str) -> str:
        return CHOICES["quiet" not in text]

    verdict = gate(backbone(), task(), worse, quiet, ("worse", "quiet"))
    assert not verdict.passed
    assert gate(backbone(), task(), quiet, PLAIN, ("quiet", "plain")).passed


def test_a_strategy_that_is_given_as_such_is_measured_on_its_own_model() -> None:
    model, other, data = backbone(), backbone("qwen"), task()
    prompt = PLAIN.replace(name="elsewhere", output=Output(choices=CHOICES))
    strategy = PromptStrategy(prompt, other, cost=Cost(5, 500))
    result = compare(model, data, [PLAIN, strategy])
    found = result.strategy("elsewhere")
    assert found.predictions == measure(strategy, data, data.test).answers
    assert (found.trained_parameters, found.rows, found.calibrated) == (5, 500, False)
    assert result.reference == "plain"
    alone = compare(model, data, [strategy, STRATEGIES["majority"](model, data)])
    assert alone.reference == "majority class"
    assert [s.name for s in alone.strategies].count("majority class") == 1
    with pytest.raises(UsageError, match="two strategies are called 'majority class'"):
        compare(model, data, [Function.of(quiet, "majority class")])
