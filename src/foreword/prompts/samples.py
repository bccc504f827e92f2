"""Inputs of a size that a prompt allows, to try it with. Knows what is declared about inputs; knows no models."""

from foreword.prompts.inputs import Input
from foreword.prompts.prompt import ANY_INPUT, Prompt

SAMPLE_TEXT = "This is a plain sentence of words as people write them, with a name like Maria and a number like 42. "


def sample_row(prompt: Prompt, length: int | None = None) -> dict[str, object] | None:
    """A value for every variable: texts of `length` characters, or as long as is allowed where that is shorter.

    Without `length` a text has some words. None where what is declared rules all of these out.
    """
    row = {name: sample(prompt.specs.get(name, ANY_INPUT), length) for name in prompt.variables}
    fits = all(prompt.specs.get(name, ANY_INPUT).problem(value) is None for name, value in row.items())
    return row if fits else None


def sample(spec: Input, length: int | None = None) -> object:
    """A value of the declared type; its pattern is not looked at."""
    if spec.enum is not None:
        return max(spec.enum, key=lambda value: len(str(value)))
    if spec.default is not None and length is None:
        return spec.default
    match spec.type:
        case "string":
            wanted = max(spec.minLength or 0, min(length or 40, spec.maxLength or 10**9))
            return (SAMPLE_TEXT * (wanted // len(SAMPLE_TEXT) + 1))[:wanted]
        case "array":
            most = spec.maxItems or spec.maxLength or 10
            return [sample(spec.items or ANY_INPUT, length)] * max(
                spec.minItems or 0, min(2 if length is None else 10, most)
            )
        case "object":
            return {name: sample(inner, length) for name, inner in (spec.properties or {}).items()}
        case "boolean":
            return True
    value = 7 if spec.maximum is None else min(spec.maximum, 7)
    value = value if spec.minimum is None else max(spec.minimum, value)
    return int(value) if spec.type == "integer" else value
