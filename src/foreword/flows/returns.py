"""Python types of answers: sets the output of a prompt by a type, and reads answers as it. Knows no models."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import PydanticInvalidForJsonSchema, PydanticUserError, TypeAdapter, ValidationError

from foreword.errors import UsageError
from foreword.forms import validation_message
from foreword.prompts import Output, Prompt

Read = Callable[[Any], Any]
"""A function that makes the typed value of an answer. It raises ValueError, which says what is wrong."""


def identity(value: Any) -> Any:
    """Return the value unchanged."""
    return value


def returning(prompt: Prompt, kind: Any) -> tuple[Prompt, Read]:
    """Return `prompt` with an output that can be read as a `kind`, and the function that reads it.

    A prompt that declares an output keeps it; one that answers free text takes its choices from a Literal or an enum of
    texts, and its schema from any other type that pydantic knows: a model, a dataclass, int, list[str] …
    Raises UsageError if the prompt's output and the type do not fit, or if the type's schema cannot be enforced.
    """
    if kind is None:
        return prompt, identity
    try:
        adapter = TypeAdapter(kind)
        schema = adapter.json_schema()
        plain = _plain(schema, schema.get("$defs", {}), ())
    except (PydanticInvalidForJsonSchema, PydanticUserError, ValueError) as error:
        raise UsageError(f"no answer can be read as {kind!r}: {' '.join(str(error).split()):.200}") from error
    texts = [plain["const"]] if "const" in plain else plain.get("enum")
    choices = prompt.output.choices
    if choices is not None and (texts is None or set(texts) != set(choices)) and kind is not str:
        raise UsageError(f"prompt {prompt.name!r} answers one of {list(choices)}; {kind!r} does not fit that")
    if prompt.output == Output() and kind is not str:
        prompt = prompt.replace(output=_output(plain, texts, kind))

    def read(value: Any) -> Any:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(validation_message(f"the answer {value!r:.80} is no {kind!r}", error)) from None

    return prompt, read


def _output(schema: dict[str, Any], texts: list[Any] | None, kind: Any) -> Output:
    try:
        if texts is not None and len(texts) > 1 and all(isinstance(text, str) for text in texts):
            return Output(choices=tuple(texts))
        return Output(schema=schema)
    except ValidationError as error:
        raise UsageError(validation_message(f"no answer can be constrained to {kind!r}", error)) from error


def _plain(node: Mapping[str, Any], definitions: Mapping[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
    """Return pydantic's schema with its references resolved, without titles and defaults, which constrain nothing."""
    if (ref := node.get("$ref")) is not None:
        if ref in within:
            raise ValueError("it holds itself; use a type of finite depth")
        target = definitions[ref.removeprefix("#/$defs/")]
        return _plain({**target, **{k: v for k, v in node.items() if k != "$ref"}}, definitions, (*within, ref))
    resolved = {key: value for key, value in node.items() if key not in ("$defs", "default", "title")}
    for key in ("properties", "items", "anyOf"):
        if key not in resolved:
            continue
        part = resolved[key]
        if key == "properties":
            resolved[key] = {name: _plain(inner, definitions, within) for name, inner in part.items()}
        elif key == "items":
            resolved[key] = _plain(part, definitions, within)
        else:
            resolved[key] = [_plain(inner, definitions, within) for inner in part]
    return resolved
