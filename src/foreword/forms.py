"""What is wrong with a form that somebody filled in, in a line. Knows how pydantic says it."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KINDS = {
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
}


def validation_message(
    source: str, error: ValidationError, form: type[BaseModel] | None = None, *, values: bool = True
) -> str:
    """`SOURCE, 'output.choices': must be a list of texts, not 'yes'`: the first thing that is wrong, and where.

    `form` is the model that was asked for: with it, a wrong key is told the right one. Without `values` none that
    stands in the form is repeated.
    """
    first, *others = error.errors()
    *within, key = first["loc"] or ("",)
    if first["type"] == "missing":
        written = [str(o["loc"][-1]) for o in others if o["type"] == "extra_forbidden" and [*o["loc"][:-1]] == within]
        near = difflib.get_close_matches(str(key), written, n=1)
        return _at(source, within, f"{key!r} is required" + (f"; did you mean it by {near[0]!r}?" if near else ""))
    if first["type"] == "extra_forbidden":
        keys = _keys(form, within) if form else []
        near = difflib.get_close_matches(str(key), keys, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(keys)}" if keys else ""
        return _at(source, within, f"no key {str(key)!r:.80}{hint}")
    return _at(source, first["loc"], _problem(first, form, values=values))


def _problem(first: ErrorDetails, form: type[BaseModel] | None, *, values: bool) -> str:
    kind, found = first["type"], first["input"]
    if kind == "value_error":  # our own words
        return str(first["ctx"]["error"])
    if kind == "string_type" and isinstance(found, bool | int | float):
        example = '("yes")' if isinstance(found, bool) else f'("{found}")'
        return f"must be a text, and YAML reads this as {found!r:.80}; put it in quotes {example}"
    problem = KINDS.get(kind) or first["msg"].replace("Input should", "must", 1)
    parts = [*_within(_kind(form, first["loc"]))] if form else []
    if kind in ("list_type", "tuple_type") and str in parts and not any(get_origin(part) is dict for part in parts):
        problem += " of texts"
    plain = isinstance(found, str | int | float | None) and ", not " not in problem
    return problem + (f", not {found!r:.80}" if plain and values else "")


def _at(source: str, place: Sequence[int | str], problem: str) -> str:
    written = ".".join(str(step) for step in place if step != "[key]")
    return f"{source}, {written!r:.200}: {problem}" if written else f"{source}: {problem}"


def _within(kind: Any) -> Iterator[Any]:
    """A type and all that stand in it: of `list[Step] | None` those three."""
    yield kind
    for part in get_args(kind):
        yield from _within(part)


def _forms(kind: Any) -> list[type[BaseModel]]:
    return [part for part in _within(kind) if isinstance(part, type) and issubclass(part, BaseModel)]


def _kind(form: type[BaseModel], place: Sequence[int | str]) -> Any:
    """The type of what stands at `place`; numbers and free keys lead into a list or a mapping, which stays."""
    kind: Any = form
    for step in place:
        for model in _forms(kind)[:1]:
            fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
            kind = fields.get(str(step), kind)
    return kind


def _keys(form: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    forms = _forms(_kind(form, place))
    return [field.alias or name for name, field in forms[0].model_fields.items()] if forms else []
