"""Constrained decoding: whatever a model would rather say, what it writes is JSON that fits."""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import tiny
from foreword.backbone import Backbone, Sampling
from foreword.errors import ForewordError
from foreword.prompts import Output, Prompt, SoftTokens

backbone = cache(tiny.backbone)
ROWS = [{"text": "a quiet film"}, {"text": 'silly , {"tedious": "}'}, {"text": ""}]
TEAM = {"type": "object", "properties": {"team": {"enum": ["billing", "technical"]}, "urgent": {"type": "boolean"}}}
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(st.sampled_from('a"\\\né😀 '), max_size=4))


def numbers(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
    closed = bounds.map(lambda b: {"type": kind, "minimum": b[0], "maximum": b[0] + b[1]})
    return st.one_of(st.just({"type": kind}), closed)


LEAVES = st.one_of(
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, *[st.integers(0, 3)] * 2
    ),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
    numbers("integer"),
    numbers("number"),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
)


def wider(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    objects = st.dictionaries(NAMES, inner, min_size=1, max_size=3).flatmap(
        lambda parts: st.lists(st.sampled_from(list(parts)), unique=True).map(
            lambda needed: {"type": "object", "properties": parts, "required": needed}
        )
    )
    arrays = inner.map(lambda items: {"type": "array", "items": items, "maxItems": 2})
    return st.one_of(objects, arrays, st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts}))


SCHEMAS = st.recursive(LEAVES, wider, max_leaves=4)


@pytest.mark.parametrize(("family", "temperature"), [("gpt2", 1.5), ("bloom", 0.0), ("t5", 1.0)])
@settings(max_examples=25, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 99))
def test_random_models_write_json_that_fits_random_schemas(
    family: str, temperature: float, schema: dict[str, Any], seed: int
) -> None:
    prompt = Prompt("p", "Review: {{ text }}\nAnswer:", output=Output(schema=schema))
    limit = 200
    for answer in backbone(family).answer(prompt, ROWS, Sampling(limit, temperature, seed=seed)):
        if answer.answer_tokens < limit:
            Draft202012Validator(schema).validate(json.loads(answer.text))
            assert answer.value == json.loads(answer.text)
            assert answer.problem is None
        elif answer.problem is not None:
            assert answer.value is None
            assert f"not finished after {limit} tokens" in answer.problem
            assert "max_tokens" in answer.problem


@pytest.mark.parametrize("kind", ["embeddings", "prefix"])
def test_a_soft_prompt_is_held_as_a_hard_one_is(kind: str) -> None:
    model, P = backbone("llama"), 3
    rng = np.random.default_rng(0)
    L, H, size = model.cache_shape
    shapes = {"embeddings": [(P, model.dimension)], "prefix": [(L, H, P, size)] * 2}[kind]
    names = {"embeddings": ["embeddings"], "prefix": ["keys", "values"]}[kind]
    tensors = {name: rng.normal(size=shape).astype("float32") for name, shape in zip(names, shapes, strict=True)}
    soft = SoftTokens(tensors, model.name, model.fingerprint, "test", "", P)
    schema = TEAM | {"required": ["team", "urgent"]}
    prompt = Prompt("p", "{{ virtual(3) }}Review: {{ text }}\nAnswer:", output=Output(schema=schema), soft=soft)
    for answer in model.answer(prompt, ROWS, Sampling(60)):
        assert answer.value["team"] in ("billing", "technical")
        assert isinstance(answer.value["urgent"], bool)


def test_a_held_answer_is_the_likeliest_one_that_fits() -> None:
    """Greedy, and with one token to each answer: the same as scoring the choices."""
    model, digits = backbone("llama"), [str(digit) for digit in range(10)]
    # A turn of chat ends a line, so that no space comes before the answer.
    scored = Prompt("p", "{{ user() }}{{ text }}", output=Output(choices=tuple(digits)))
    constrained = scored.replace(output=Output(schema={"type": "integer", "minimum": 0, "maximum": 9}))
    rows = [{"text": f"{word} film"} for word in ("quiet", "silly", "tedious", "generous", "")]
    expected = [answer.value for answer in model.answer(scored, rows)]
    answers = model.answer(constrained, rows)
    alike = [str(answer.value) == one for answer, one in zip(answers, expected, strict=True)]
    unspaced = [answer.answer_tokens == 1 for answer in answers]  # a constrained answer may also begin with a space
    assert any(unspaced)
    assert all(same for same, one in zip(alike, unspaced, strict=True) if one)


def test_a_row_answers_the_same_alone_and_among_others_and_stop_strings_do_not_cut_json() -> None:
    model = backbone("llama")
    schema = {"type": "object", "properties": {"say": {"type": "string", "maxLength": 9}}, "required": ["say"]}
    prompt = Prompt("p", "Review: {{ text }}\nAnswer:", output=Output(schema=schema))
    together = model.answer(prompt, ROWS, Sampling(80))
    assert [model.answer(prompt, [row], Sampling(80, stop=('"', "a")))[0] for row in ROWS] == together
    assert all(len(answer.value["say"]) <= 9 for answer in together)


def test_what_is_cut_off_says_so_and_free_text_is_as_it_was() -> None:
    model = backbone("llama")
    schema = {"type": "object", "properties": {"say": {"type": "string", "minLength": 50}}, "required": ["say"]}
    answer = model.answer(Prompt("p", "{{ text }}", output=Output(schema=schema)), [{"text": "film"}], Sampling(9))[0]
    assert (answer.value, answer.answer_tokens) == (None, 9)
    assert answer.text == '{"say":'
    assert answer.problem is not None
    assert "raise max_tokens" in answer.problem
    with pytest.raises(ForewordError, match="300 to write"):
        model.answer(Prompt("p", "{{ text }}", output=Output(schema=schema)), [{"text": "film"}], Sampling(300))


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    model: Backbone = tiny.backbone("llama")
    with pytest.raises(ForewordError, match=r"pip install 'foreword\[structured\]'"):
        model.answer(Prompt("p", "{{ text }}", output=Output(schema=TEAM)), [{"text": "film"}], Sampling(9))
