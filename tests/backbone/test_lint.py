"""Lint on a backbone: answers as tokens, and what the context holds."""

from typing import Any

import pytest

import tiny
from foreword.backbone.lint import lint_tokens
from foreword.errors import ForewordWarning
from foreword.prompts import Examples, Input, Output, Prompt

REVIEW = "Review: {{ text }}\nSentiment:"


def found(prompt: Prompt, family: str = "llama", **more: Any) -> list[tuple[str, str]]:
    return [(finding.severity, finding.what) for finding in lint_tokens(prompt, tiny.backbone(family), **more)]


def has(findings: list[tuple[str, str]], severity: str, what: str) -> bool:
    return any(s == severity and what in w for s, w in findings)


def test_an_answer_whose_tokens_begin_another_is_an_error_unless_answers_are_whole_texts() -> None:
    prompt = Prompt("p", REVIEW, {"text": Input(maxLength=9)}, Output(choices=("very good", "very", "bad")))
    assert has(found(prompt), "error", "tokens of the answer 'very' are the first ones of 'very good'")
    assert not has(found(prompt, "t5"), "error", "tokens of the answer")
    assert has(found(prompt), "note", "differ in their number of tokens")


def test_context_and_special_tokens() -> None:
    long = Prompt("p", REVIEW, {"text": Input(maxLength=5_000)})
    assert has(found(long), "error", "with 'text' as long as allowed a row takes")
    cut = Prompt("p", REVIEW, {"text": Input(maxTokens=100, truncate="end")})
    assert found(cut) == []
    assert has(found(Prompt("p", REVIEW, {"text": Input(maxTokens=300)})), "error", "context of 'tiny-llama' holds 256")
    rows = [{"text": "film " * n} for n in (10, 400, 600)]
    undeclared = Prompt("p", REVIEW)
    assert has(found(undeclared, rows=rows), "error", "2 of the task's 3 rows do not fit")
    assert has(found(cut, rows=rows), "note", "2 of the task's 3 rows are cut to the budget of 'text'")
    assert has(found(Prompt("p", "a </s> b")), "warning", "spells '</s>', a special token")
    assert has(found(Prompt("p", "{{ virtual(2) }}a")), "error", "no vectors yet")


def test_a_budget_is_held_and_told_with_every_answer() -> None:
    backbone = tiny.backbone()
    prompt = Prompt("p", REVIEW, {"text": Input(maxTokens=20, truncate="start")}, Output(choices=("good", "bad")))
    long, short = {"text": "a tedious film " * 60}, {"text": "quiet"}
    with pytest.warns(ForewordWarning, match="longer than its 20 tokens; its start is cut"):
        answers = backbone.answer(prompt, [long, short])
    assert [[cut.kept for cut in answer.cuts] for answer in answers] == [[20], []]
    assert answers[0].prompt_tokens <= answers[1].prompt_tokens + 20
    with pytest.warns(ForewordWarning):
        kept = backbone.encode(prompt, long)
    text = backbone.tokenizer.decode(kept.ids.tolist())
    assert text.endswith("a tedious film \nSentiment:")
    with pytest.warns(ForewordWarning):
        written = backbone.answer(prompt.replace(output=Output()), [long])
    assert written[0].cuts[0].input == "text"
    strict = prompt.replace(inputs={"text": Input(maxTokens=20, truncate="start", pattern="^a tedious", minLength=500)})
    with pytest.warns(ForewordWarning):  # what is declared holds for what is given, not for what is left of it
        assert backbone.encode(strict, long).ids.tolist() == kept.ids.tolist()


def test_examples_are_data_and_stand_in_the_shared_prefix() -> None:
    backbone = tiny.backbone()
    loop = "{% for e in examples %}{{ e.text }}\n{% endfor %}" + REVIEW
    rows = ({"text": "silly film </s>"}, {"text": "quiet film"})
    fixed = Prompt("p", loop, {"text": Input()}, Output(choices=("good", "bad")), examples=Examples(rows=rows))
    encoded = backbone.encode(fixed, {"text": "good"})
    assert backbone.tokenizer.eos_token_id not in encoded.ids  # what an example spells out is no end of a turn
    cache = backbone.prefix_cache(fixed, [encoded.ids])
    assert "quiet film\nReview:" in backbone.tokenizer.decode(cache.ids.tolist())
    typed = fixed.replace(inputs={"text": Input(enum=("good", "bad"))})
    assert len(backbone.prefix_cache(typed, [encoded.ids]).ids) == len(cache.ids)
    most = Examples(rows=rows, maxTokens=len(backbone.tokenizer.encode("quiet film")))
    shown = backbone.encode(fixed.replace(examples=most), {"text": "good"})
    assert "silly" not in backbone.tokenizer.decode(shown.ids.tolist())
    assert "quiet" in backbone.tokenizer.decode(shown.ids.tolist())
