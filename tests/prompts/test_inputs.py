"""Typed inputs: JSON Schema's words mean what they mean there, and no schema takes long."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Input, Prompt, Text
from foreword.prompts.inputs import read_value
from within import within

VALUES = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.floats(-9, 9).filter(lambda x: x != int(x)) | st.text("abc1", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)
LEAVES = st.one_of(
    st.builds(dict, type=st.just("string"), minLength=st.integers(0, 3), maxLength=st.integers(1, 3)),
    st.builds(dict, type=st.just("string"), pattern=st.sampled_from(["^a+$", "b|c", "[0-9]"])),
    st.builds(
        dict, type=st.sampled_from(["integer", "number"]), minimum=st.integers(-5, 5), maximum=st.integers(-5, 5)
    ),
    st.builds(dict, type=st.just("integer"), enum=st.lists(st.integers(0, 3), min_size=1)),
    st.builds(dict, type=st.just("boolean")),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(dict, type=st.just("array"), items=inner, minItems=st.integers(0, 2), maxItems=st.integers(0, 3))
        | st.builds(
            dict,
            type=st.just("object"),
            properties=st.dictionaries(st.sampled_from("ab"), inner),
            required=st.lists(st.sampled_from("ab"), unique=True),
            additionalProperties=st.booleans(),
        )
    ),
    max_leaves=3,
)


@settings(deadline=None)
@given(SCHEMAS, VALUES)
def test_a_value_fits_where_json_schema_says_so(schema: dict[str, Any], value: object) -> None:
    fits = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (Input.model_validate(schema).problem(value) is None) == fits


@settings(deadline=None)
@given(SCHEMAS)
def test_a_declaration_survives_being_written_and_read(schema: dict[str, Any]) -> None:
    prompt = Prompt("p", "{{ x }}", {"x": Input.model_validate(schema)})
    again = Prompt.from_text(prompt.to_text(), "p.prompt")
    assert again.inputs == prompt.inputs
    assert again.digest == prompt.digest


def test_a_default_stands_in_for_what_is_not_given() -> None:
    prompt = Prompt("p", "{{ tone }} {{ text }}", {"text": Input(), "tone": Input(enum=("dry", "warm"), default="dry")})
    assert prompt.render({"text": "a"}) == (Text("dry a"),)
    assert prompt.render({"text": "a", "tone": "warm"}) == (Text("warm a"),)
    assert prompt.take({"text": "a", "label": "x"}, "row 1") == {"text": "a", "tone": "dry"}
    with pytest.raises(UsageError, match="input 'tone' is not as declared: 'loud' is not one of"):
        prompt.render({"text": "a", "tone": "loud"})
    with pytest.raises(UsageError, match="needs the input 'text'"):
        prompt.render({"tone": "dry"})


def test_an_error_in_a_part_says_where() -> None:
    note = Input(type="object", properties={"by": Input()}, required=("by",))
    prompt = Prompt("p", "{{ notes }}", {"notes": Input(type="array", items=note)})
    with pytest.raises(UsageError, match=r"input 'notes' is not as declared, at \[1\]\['by'\]: 3 is not of type"):
        prompt.render({"notes": [{"by": "a"}, {"by": 3}]})
    with pytest.raises(UsageError, match=r"at \[0\]: 'by' is a required property"):
        prompt.render({"notes": [{}]})


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("{enum: [yes, no]}", "True must be of type string.*YAML reads"),
        ("{type: integer, default: two}", "default must be of type integer"),
        ("{default: abc, maxLength: 2}", "default is 3 long"),
        ("{type: integer, minLength: 2}", "'minLength' is for string, not for integer"),
        ("{truncate: end}", "'truncate' needs 'maxTokens'"),
        ("{maxTokens: 3, truncate: head}", "truncate"),
        ("{type: array, items: {default: a}}", "for an input as a whole"),
        ("{type: array, items: " * 6 + "{}" + "}" * 6, "more than 5 deep"),
        ("{$ref: '#/a'}", "no key '.ref'"),
        ("{pattern: '" + "a" * 201 + "'}", "at most 200"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(spec: str, why: str) -> None:
    with pytest.raises(ForewordError, match=why):
        Prompt.from_text(f"---\nname: p\ninputs: {{x: {spec}}}\n---\n{{{{ x }}}}", "p.prompt")


@pytest.mark.parametrize(
    ("inputs", "value"),
    [
        ("{x: {pattern: '^(a+)+$'}}", "a" * 50_000 + "b"),
        ("{x: {pattern: '^(a|a)*(a|aa)*$'}}", "a" * 50_000 + "b"),
        ("{x: {pattern: '(a{1000}){1000}'}}", "a"),
        ("{x: {pattern: '(?=a)b'}}", "a"),
        ("{x: {pattern: '(((((('}}", "a"),
        ("{" + ",".join(f"x{i}: {{pattern: '\\w{{{200 + i}}}'}}" for i in range(500)) + "}", "a"),
        ("{x: {type: integer, enum: [" + ",".join(map(str, range(8_000))) + "]}}", 9_000),
        ("{" + ",".join(f"x{i}: {{enum: [a, b], default: a}}" for i in range(1_100)) + "}", "a"),
    ],
)
def test_no_declaration_takes_more_than_a_second(inputs: str, value: object) -> None:
    Input(enum=("a",)).problem("a")  # loads the library
    with within(1), pytest.raises(ForewordError):
        Prompt.from_text(f"---\nname: p\ninputs: {inputs}\n---\n{{{{ x }}}}", "p.prompt").render({"x": value})


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    spec = Input.model_validate({"type": "array", "items": {"type": "array", "items": {"type": "array"}}})
    with pytest.raises(ForewordError):
        Prompt("p", "{{ x }}", {"x": spec}).render({"x": circle})


def test_the_command_lines_text_becomes_a_value_of_the_declared_type() -> None:
    assert read_value(Input(), "x", "3") == "3"
    assert read_value(Input(type="integer"), "x", "3") == 3
    assert read_value(Input(type="array"), "x", '["a"]') == ["a"]
    with pytest.raises(UsageError, match=r"^input 'x': 'three' is no integer; such as 2$"):
        read_value(Input(type="integer"), "x", "three")


def test_a_row_of_texts_gives_typed_inputs_and_others_do_not() -> None:
    prompt = Prompt("p", "{{ n }}{{ t }}{{ l }}", {"n": Input(type="integer"), "t": Input(), "l": Input(type="array")})
    assert prompt.take_texts({"n": "5", "t": "6", "l": "[1]", "more": "x"}, "row 1") == {"n": 5, "t": "6", "l": [1]}
    assert prompt.take_texts({"n": 5, "t": "6", "l": [1]}, "row 1") == {"n": 5, "t": "6", "l": [1]}
    for wrong, why in (("five", "input 'n': 'five' is no integer"), ("5.5", "must be of type integer, not 5.5")):
        with pytest.raises(UsageError, match=f"row 1: .*{why}"):
            prompt.take_texts({"n": wrong, "t": "6", "l": "[]"}, "row 1")
    with pytest.raises(UsageError, match="must be of type integer, not '5'"):
        prompt.take({"n": "5", "t": "6", "l": []}, "row 1")
