"""The part of JSON Schema that constrained decoding can enforce, and whether a text fits. Knows no models.

The part is small on purpose: all of it can be enforced while a model writes, and what it costs is bounded.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Schema = Mapping[str, Any]

MAX_CHARACTERS = 20_000
"""Of a schema, written as JSON."""
MAX_DEPTH = 8
"""Schemas inside schemas."""
MAX_LENGTH = 10_000
"""The largest `maxLength` and `maxItems`."""
MAX_NUMBER = 10**15
"""The largest bound of a number: beyond it floats are no longer exact."""

ANY_OBJECT: Schema = {"type": "object"}
"""What a client may ask for without saying more; a prompt must name the properties of what it answers."""
NOTES = {"title", "description"}
LIMITS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set[str](),
    "null": set[str](),
}


def checked(schema: Schema) -> dict[str, Any]:
    """A private copy of a schema that can constrain decoding. Raises ValueError that names the place at fault."""
    try:
        text = _written(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a schema holds JSON only: {error}") from None
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the schema has {len(text):,} characters, {MAX_CHARACTERS:,} at most; ask for less at once")
    copy = json.loads(text)
    if copy != schema:  # a key that is no text, which JSON would turn into one
        raise ValueError("a schema's keys are texts; put what YAML reads as something else (1, yes, no) in quotes")
    _check(copy, "schema", 0)
    return dict(copy)


def closed(schema: Schema) -> dict[str, Any]:
    """`schema` as it is enforced: objects take the properties that are named, numbers lie within ±10^15."""
    return rewritten(schema, _close)


def rewritten(schema: Schema, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """`schema` with every schema in it, the innermost first, put through `change`."""
    found = dict(schema)
    if "properties" in found:
        found["properties"] = {name: rewritten(part, change) for name, part in found["properties"].items()}
    if "items" in found:
        found["items"] = rewritten(found["items"], change)
    if "anyOf" in found:
        found["anyOf"] = [rewritten(part, change) for part in found["anyOf"]]
    return change(found)


def types(schema: Schema) -> list[Any]:
    """What `type` says, as a list."""
    kinds = schema.get("type", [])
    return kinds if isinstance(kinds, list) else [kinds]


def _close(node: dict[str, Any]) -> dict[str, Any]:
    if "properties" in node:
        node["additionalProperties"] = False
    if {"integer", "number"} & set(types(node)) and not {"enum", "const"} & set(node):
        if "exclusiveMinimum" not in node:
            node.setdefault("minimum", -MAX_NUMBER)
        if "exclusiveMaximum" not in node:
            node.setdefault("maximum", MAX_NUMBER)
    return node


def read(schema: Schema, text: str) -> Any:
    """The value that `text` spells out. Raises ValueError that says why it is no JSON or does not fit."""
    from jsonschema import Draft202012Validator

    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
        _written(value).encode()  # refuses halves of characters
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer {text!r:.80} is no JSON: {error}") from None
    for fault in Draft202012Validator(closed(schema)).iter_errors(value):
        raise ValueError(f"the answer {text!r:.80} does not fit the schema: {fault.json_path}, {fault.message:.200}")
    return value


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number")
    return number


def _check(node: Any, place: str, depth: int) -> None:
    if not isinstance(node, dict):
        _refuse(place, f"must be a mapping such as {{type: string}}, not {node!r:.80}")
    if depth > MAX_DEPTH:
        _refuse(place, f"is nested more than {MAX_DEPTH} deep; flatten it")
    if "anyOf" in node:
        _only(node, {"anyOf"}, place)
        if not isinstance(node["anyOf"], list) or not node["anyOf"]:
            _refuse(place, "'anyOf' is a list of at least one schema")
        for number, part in enumerate(node["anyOf"]):
            _check(part, f"{place}.anyOf[{number}]", depth + 1)
    elif "enum" in node or "const" in node:
        _only(node, {"enum" if "enum" in node else "const", "type"}, place)
        _check_values(node, place)
    else:
        kinds = _check_types(node, place)
        _only(node, {"type"}.union(*(LIMITS[kind] for kind in kinds)), place)
        _check_limits(node, kinds, place)
        _check_parts(node, kinds, place, depth)


def _check_values(node: dict[str, Any], place: str) -> None:
    values = node["enum"] if "enum" in node else [node["const"]]
    if not isinstance(values, list) or not values or any(isinstance(value, list | dict) for value in values):
        _refuse(place, "'enum' is a list of at least one text, number, true, false or null")
    if "type" in node:
        from jsonschema import Draft202012Validator

        fits = Draft202012Validator({"type": _check_types(node, place)})
        if wrong := [value for value in values if not fits.is_valid(value)]:
            _refuse(place, f"{wrong[0]!r} is not of type {node['type']!r}")


def _check_limits(node: dict[str, Any], kinds: list[str], place: str) -> None:
    for low, high in (("minLength", "maxLength"), ("minItems", "maxItems")):
        for key in (low, high):
            if key in node and (type(node[key]) is not int or not 0 <= node[key] <= MAX_LENGTH):
                _refuse(place, f"{key!r} is a whole number from 0 to {MAX_LENGTH:,}, not {node[key]!r}")
        if node.get(low, 0) > node.get(high, MAX_LENGTH):
            _refuse(place, f"{low!r} is above {high!r}")
    for key in LIMITS["number"] & set(node):
        if type(node[key]) not in (int, float) or abs(node[key]) > MAX_NUMBER:
            _refuse(place, f"{key!r} is a number within ±{MAX_NUMBER:,}, not {node[key]!r}")
    low = max(node.get("minimum", -MAX_NUMBER), node.get("exclusiveMinimum", -MAX_NUMBER))
    high = min(node.get("maximum", MAX_NUMBER), node.get("exclusiveMaximum", MAX_NUMBER))
    shut = low == high and low in (node.get("exclusiveMinimum"), node.get("exclusiveMaximum"))
    if low > high or shut or ("integer" in kinds and "number" not in kinds and not _whole(node, low, high)):
        _refuse(place, "no number lies between its bounds")


def _whole(node: dict[str, Any], low: float, high: float) -> bool:
    first = math.floor(low) + 1 if low == node.get("exclusiveMinimum") else math.ceil(low)
    last = math.ceil(high) - 1 if high == node.get("exclusiveMaximum") else math.floor(high)
    return first <= last


def _check_parts(node: dict[str, Any], kinds: list[str], place: str, depth: int) -> None:
    if "array" in kinds:
        if "items" not in node:
            _refuse(place, "an array needs 'items', the schema of what it holds")
        _check(node["items"], f"{place}.items", depth + 1)
    if "object" in kinds:
        parts, needed = node.get("properties"), node.get("required", [])
        if not isinstance(parts, dict) or not parts:
            _refuse(place, "an object needs 'properties', a schema for each")
        if node.get("additionalProperties", False) is not False:
            _refuse(place, "'additionalProperties' can only be false; name every property")
        if not isinstance(needed, list) or len(set(map(str, needed))) < len(needed):
            _refuse(place, "'required' is a list of different names")
        if unknown := [name for name in needed if name not in parts]:
            _refuse(place, f"requires {unknown[0]!r}, which is not among its properties {list(parts)}")
        for name, part in parts.items():
            _check(part, f"{place}.properties.{name}", depth + 1)


def _check_types(node: Schema, place: str) -> list[Any]:
    kinds = types(node)
    if not kinds or any(not isinstance(kind, str) or kind not in LIMITS for kind in kinds):
        _refuse(place, f"needs a 'type' (or 'enum', 'const', 'anyOf'), one or a list of {', '.join(LIMITS)}")
    return kinds


def _only(node: dict[str, Any], known: set[str], place: str) -> None:
    for key in node:
        if key not in known | NOTES:
            _refuse(place, f"{key!r} cannot stand here; there are: {', '.join(sorted(known | NOTES))}")


def _refuse(place: str, what: str) -> NoReturn:
    raise ValueError(f"{place}: {what}")
