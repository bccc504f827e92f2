"""Schemas that answers are held to: what may stand in one, and what a text must be to fit."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Output, Prompt
from foreword.prompts.schema import MAX_DEPTH, checked, closed, read

TICKET: dict[str, Any] = {
    "type": "object",
    "properties": {
        "team": {"enum": ["billing", "technical"], "description": "who answers"},
        "urgent": {"type": "boolean"},
        "amount": {"type": ["number", "null"], "minimum": 0},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
        "who": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"id": {"type": "integer"}}}]},
    },
    "required": ["team", "urgent"],
}


def nested(depth: int) -> dict[str, Any]:
    return {"type": "string"} if depth == 0 else {"type": "array", "items": nested(depth - 1)}


def test_a_schema_comes_through_a_prompt_file_as_it_was_written() -> None:
    prompt = Prompt("ticket", "{{ text }}", output=Output(schema=TICKET))
    again = Prompt.from_text(prompt.to_text(), "ticket.prompt")
    assert again == prompt
    assert again.digest == prompt.digest
    assert list(again.output.json_schema["properties"]) == list(TICKET["properties"])  # type: ignore[index]
    assert again.output.model_dump(exclude_defaults=True) == {"schema": TICKET}


def test_a_schema_is_nobodys_but_the_prompts() -> None:
    mine = {"type": "object", "properties": {"a": {"type": "string"}}}
    output = Output(schema=mine)
    mine["properties"] = {}
    assert output.json_schema == {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "schema: needs a 'type'"),
        ({"type": "text"}, "one or a list of object, array, string"),
        ({"type": {"a": 1}}, "needs a 'type'"),
        ({"type": "object"}, "an object needs 'properties'"),
        ({"type": "array"}, "an array needs 'items'"),
        ({"type": "array", "items": "string"}, r"schema\.items: must be a mapping"),
        ({"type": "string", "pattern": "(a+)+$"}, "'pattern' cannot stand here"),
        ({"type": "string", "maximum": 3}, "'maximum' cannot stand here"),
        ({"$ref": "https://example.org/x"}, "needs a 'type'"),
        ({"type": "string", "$ref": "#"}, "'\\$ref' cannot stand here"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}, "requires 'b'"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": True}, "can only be false"),
        ({"type": "string", "maxLength": 10**9}, "from 0 to 10,000"),
        ({"type": "string", "maxLength": True}, "whole number"),
        ({"type": "string", "minLength": 4, "maxLength": 3}, "'minLength' is above 'maxLength'"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "no number lies between"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "no number lies between"),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "no number lies between"),
        ({"type": "number", "minimum": "0"}, "is a number within"),
        ({"type": "number", "minimum": 1e300}, "is a number within"),
        ({"type": "string", "enum": ["a", 1]}, "1 is not of type 'string'"),
        ({"enum": []}, "list of at least one"),
        ({"enum": [float("nan")]}, "JSON only"),
        ({"enum": ["x" * 30_000]}, "30,014 characters, 20,000 at most"),
        ({"type": "object", "properties": {True: {"type": "null"}}}, "keys are texts"),
        (nested(MAX_DEPTH + 1), "nested more than 8 deep"),
    ],
)
def test_what_cannot_be_enforced_or_never_fits_is_refused_when_it_is_loaded(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(schema)


def test_the_file_and_the_field_are_named() -> None:
    text = "---\noutput: {schema: {type: object, properties: {team: {type: word}}}}\n---\n{{ text }}"
    with pytest.raises(ForewordError, match=r"'a\.prompt', 'output\.schema': .*properties\.team: needs a 'type'"):
        Prompt.from_text(text, "a.prompt", "a")
    with pytest.raises(ForewordError, match="whole number"):
        Prompt.from_text("---\noutput: {schema: {type: string, maxLength: ten}}\n---\n{{ text }}", "a.prompt", "a")
    with pytest.raises(ValidationError, match="not both"):
        Output(choices=("a", "b"), schema={"type": "string"})
    endless: dict[str, Any] = {"type": "array"}
    endless["items"] = endless
    with pytest.raises(ValidationError, match="JSON only"):
        Output(schema=endless)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"team": "billing", "urgent": true}', {"team": "billing", "urgent": True}),
        ('{"team":"technical","urgent":false,"amount":null,"who":{"id":3}}', ...),
        ('{"team": "billing", "urgent": true, "extra": 1}', None),
        ('{"team": "billing", "urgent": true, "who": {"extra": 1}}', None),
        ('{"team": "sales", "urgent": true}', None),
        ('{"team": "billing"}', None),
        ('{"team": "billing", "urgent": 1}', None),
        ('{"team": "billing", "urgent": true, "amount": 1e999}', None),
        ('{"team": "billing", "urgent": true, "amount": NaN}', None),
        ('{"team": "billing", "urgent": true, "amount": 1e300}', None),
        ('{"team": "billing", "urgent": true, "tags": ["\\ud800"]}', None),
        ('{"team": "billing", "urgent": true', None),
        ("[" * 100_000, None),
        ("1" * 10_000, None),
        ("", None),
    ],
)
def test_a_text_is_read_only_where_it_fits(text: str, value: Any) -> None:
    if value is None:
        with pytest.raises(ValueError, match=r"is no JSON|does not fit the schema: \$"):
            read(TICKET, text)
    else:
        assert read(TICKET, text) == (json.loads(text) if value is ... else value)


def test_objects_are_closed_wherever_they_stand() -> None:
    assert closed(TICKET)["properties"]["who"]["anyOf"][1]["additionalProperties"] is False
    assert "additionalProperties" not in TICKET["properties"]["who"]["anyOf"][1]


def test_a_task_with_choices_does_not_take_a_schema_away() -> None:
    prompt = Prompt("ticket", "{{ text }}", output=Output(schema=TICKET))
    assert prompt.answering(None) is prompt
    with pytest.raises(UsageError, match="answers JSON by a schema"):
        prompt.answering(("a", "b"))
