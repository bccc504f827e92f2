"""What a prompt's variables take: a part of JSON Schema (Draft 2020-12), and a budget. Knows no templates, no models.

Values come from outside, so the part is one whose check ends soon: no references, nothing nested without end, and
patterns by an engine that takes time in proportion to the text (Rust's, which pydantic brings along).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import SchemaError

from foreword.errors import ForewordError, UsageError

MAX_ITEMS = 1_000
"""Items in a list that a template may loop over, unless its input allows more or fewer."""
MAX_NESTING = 5
"""Schemas inside schemas."""
MAX_DEPTH = 32
"""Lists and objects inside each other, in a default or a value of `enum`."""
MAX_PATTERN = 200
"""Characters in a pattern."""
MAX_PATTERNS = 4
"""Patterns in all inputs of a prompt."""

MAX_STATES, MAX_WIDE = 2_000, 128
"""Signs that a pattern unfolds to, and what they may be where `\\w` or the like stands among them: 0.1 MB for each."""
MAX_INPUTS = 256

Count = Annotated[int, Field(ge=0)]
TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": (list, tuple),
    "object": Mapping,
}
JSON_FORMS = {"integer": "such as 2", "number": "such as 2.5", "boolean": "write true or false"}
ONLY_FOR = {
    "minLength": ("string",), "pattern": ("string",), "maxTokens": ("string",),
    "truncate": ("string",), "minimum": ("integer", "number"), "maximum": ("integer", "number"),
    "items": ("array",), "minItems": ("array",), "maxItems": ("array",), "properties": ("object",),
    "required": ("object",), "additionalProperties": ("object",),
}  # fmt: skip
PLAIN = {"type", "description", "default", "maxLength", "maxTokens", "truncate"}
"""Fields that need no JSON Schema validator: what most prompts use is checked without loading one."""


class Input(BaseModel):
    """What one variable takes. JSON Schema's words mean what they mean there; `type` is `string` where none is given.

    Two are Foreword's own: `maxTokens` is a budget, held where a prompt is encoded, and `truncate` says which part of a
    longer text is left out. Without `truncate` a longer text is an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["string", "integer", "number", "boolean", "array", "object"] = "string"
    description: str = ""
    default: Any = None
    """What stands in for a value that is not given; None: it must be given."""
    enum: tuple[Any, ...] | None = Field(default=None, min_length=1)
    minimum: FiniteFloat | int | None = None
    maximum: FiniteFloat | int | None = None
    minLength: Count | None = None  # noqa: N815 - JSON Schema's own words
    maxLength: int | None = Field(default=None, ge=1)  # noqa: N815
    """Characters; of an array, items."""
    pattern: str | None = Field(default=None, max_length=MAX_PATTERN)
    """Rust's syntax: no look-around, no back-references."""
    items: "Input | None" = None
    minItems: Count | None = None  # noqa: N815
    maxItems: Count | None = None  # noqa: N815
    properties: dict[str, "Input"] | None = None
    required: tuple[str, ...] | None = None
    additionalProperties: bool | None = None  # noqa: N815
    maxTokens: int | None = Field(default=None, ge=1)  # noqa: N815
    truncate: Literal["start", "end", "middle"] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Input":
        for field, types in ONLY_FOR.items():
            if getattr(self, field) is not None and self.type not in types:
                raise ValueError(f"{field!r} is for {' and '.join(types)}, not for {self.type}")
        if self.truncate is not None and self.maxTokens is None:
            raise ValueError("'truncate' needs 'maxTokens': how long the text may be")
        if _nesting(self) > MAX_NESTING:
            raise ValueError(f"schemas nested more than {MAX_NESTING} deep")
        if any(inner.maxTokens or inner.default is not None for inner in _inner(self)):
            raise ValueError("'maxTokens' and 'default' are for an input as a whole, not for its parts")
        if self.pattern is not None and _states(self.pattern) > (
            MAX_WIDE if re.search(r"\\[wWdDsSpPbB]", self.pattern) else MAX_STATES
        ):
            raise ValueError(f"the pattern {self.pattern!r:.80} counts too far; use smaller numbers, and 'maxLength'")
        for value in (*(self.enum or ()), self.default):
            if not _is_json(value):
                raise ValueError(
                    f"the value {value!r:.80} is none of JSON's, or nested too deep; YAML reads a bare date as one"
                )
        for value in self.enum or ():
            if problem := self._type_problem(value):
                raise ValueError(f"the value {value!r:.80} {problem}; YAML reads a bare yes, no or 1 as no text")
        if self.default is not None and (problem := self.model_copy(update={"pattern": None}).problem(self.default)):
            raise ValueError(f"the default {problem}")
        return self

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, in words that follow its name; None where nothing is."""
        if problem := self._type_problem(value):
            return problem
        limit = self.maxLength or (MAX_ITEMS if self.type == "array" and self.maxItems is None else None)
        if limit is not None and isinstance(value, str | list | tuple) and len(value) > limit:
            return f"is {len(value):,} long, {limit:,} at most; cut it"
        if self.model_fields_set - PLAIN:
            return self._validator(value)
        return None

    def _type_problem(self, value: object) -> str | None:
        if not isinstance(value, TYPES[self.type]) or (isinstance(value, bool) and self.type != "boolean"):
            return f"must be of type {self.type}, not {value!r:.80}"
        return None

    @property
    def patterns(self) -> Iterator[str]:
        """Its own and those of its parts."""
        if self.pattern is not None:
            yield self.pattern
        for inner in _inner(self):
            yield from inner.patterns

    @cached_property
    def json_schema(self) -> dict[str, Any]:
        """The same as JSON Schema, without Foreword's own words."""
        own = {"items", "properties", "maxTokens", "truncate"}
        schema = {"type": self.type, **self.model_dump(mode="json", exclude_defaults=True, exclude=own)}
        if self.type == "array" and self.maxLength is not None:
            schema["maxItems"] = min(schema.pop("maxLength"), schema.get("maxItems", self.maxLength))
        if self.items is not None:
            schema["items"] = self.items.json_schema
        if self.properties is not None:
            schema["properties"] = {name: inner.json_schema for name, inner in self.properties.items()}
        return schema

    def _validator(self, value: object) -> str | None:
        try:
            error = next(_validator_class()(self.json_schema).iter_errors(value), None)
        except RecursionError:
            return "holds itself, or is nested without end"
        if error is None:
            return None
        place = "".join(f"[{step!r}]" for step in error.absolute_path)
        return f"is not as declared{f', at {place}' if place else ''}: {error.message:.200}"


def read_value(spec: Input, name: str, text: str) -> object:
    """The value that `text`, from a command line or a file of texts, stands for. Raises UsageError where it is none."""
    if spec.type == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        hint = JSON_FORMS.get(spec.type, "write it as JSON")
        raise UsageError(f"input {name!r}: {text!r:.80} is no {spec.type}; {hint}") from None


def _is_json(value: object, depth: int = 0) -> bool:
    """Whether `value` comes out of a file as it went in."""
    if depth > MAX_DEPTH:
        return False
    match value:
        case dict():
            return all(isinstance(key, str) and _is_json(inner, depth + 1) for key, inner in value.items())
        case list() | tuple():
            return all(_is_json(inner, depth + 1) for inner in value)
        case float():
            return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _inner(spec: Input) -> list[Input]:
    return [*([spec.items] if spec.items else []), *(spec.properties or {}).values()]


def _nesting(spec: Input) -> int:
    return 1 + max(map(_nesting, _inner(spec)), default=0)


def _states(pattern: str) -> int:
    """About how many signs a pattern stands for when its counts are written out."""
    signs, times = len(pattern), 1
    for group, least, most in re.findall(r"(\)?)\{(\d{1,9}),?(\d{0,9})\}", pattern):
        if group:
            times *= int(most or least)
        else:
            signs += int(most or least)
    return signs * times


@lru_cache(4)  # one can take 15 MB
def compiled(pattern: str) -> TypeAdapter[str]:
    """Checks texts for a pattern; made when it is first needed, because it takes up to 0.1 s. Raises ForewordError."""
    try:
        return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError as error:
        why = " ".join(str(error).split("SchemaError:", 1)[-1].split())
        raise ForewordError(f"the pattern {pattern!r:.80} is refused: {why:.200}; write it otherwise") from error


@lru_cache(1)
def _validator_class() -> Any:
    import jsonschema

    def pattern(validator: object, pattern: str, value: object, schema: object) -> Any:  # noqa: ARG001
        if isinstance(value, str):
            try:
                compiled(pattern).validate_python(value)
            except ValidationError:
                yield jsonschema.ValidationError(f"{value!r:.80} does not match {pattern!r}")

    base = jsonschema.Draft202012Validator
    kinds = base.TYPE_CHECKER.redefine("array", lambda _, value: isinstance(value, list | tuple))
    kinds = kinds.redefine("object", lambda _, value: isinstance(value, Mapping))
    return jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        base, {"pattern": pattern}, type_checker=kinds
    )
