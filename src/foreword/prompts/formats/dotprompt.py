"""Dotprompt files: YAML front matter, then Handlebars. Knows no models: what a file says of one is left out.

Format: google.github.io/dotprompt: `input.schema` and `output.schema` in Picoschema or JSON Schema; keys with a dot in
them are for whoever's name they begin with.
"""

import re
from typing import Any

from foreword.errors import ForewordError
from foreword.prompts.file import Output
from foreword.prompts.formats import handlebars
from foreword.prompts.formats.common import (
    OWN,
    Losses,
    build,
    dropped,
    fields_of,
    front_matter,
    inputs_of,
    own,
    prompt_name,
    text_field,
    with_inputs,
)
from foreword.prompts.formats.jinja import refuse_soft
from foreword.prompts.formats.sketch import Mark, from_body, to_body
from foreword.prompts.prompt import Prompt
from foreword.yaml_text import write_yaml

EXTRA = ("labelled_rows", "log_prior", "inputs", "output")


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    front, source = front_matter(text)
    losses: Losses = []
    nodes = handlebars.parse(source.strip(), losses)
    if any(isinstance(node, Mark) for node in nodes):
        first = next(iter(nodes))
        if isinstance(first, str) and not first.strip():
            nodes = nodes[1:]
        elif not isinstance(first, Mark):
            nodes = (Mark("user"), *nodes)
    given = front.get("input")
    given = given if isinstance(given, dict) else {}
    fields: dict[str, Any] = {"description": text_field(front.get("description"))}
    inputs = inputs_of(_properties(given.get("schema"), losses), losses)
    losses += dropped(given, ("schema",), "input.")
    output = _output(front, losses)
    losses += dropped(front, ("name", "description", "input", "output", *(f"{OWN}.{key}" for key in EXTRA)))
    fields |= {key: front[f"{OWN}.{key}"] for key in EXTRA if f"{OWN}.{key}" in front}
    prompt = build(prompt_name(front.get("name"), name, losses), to_body(nodes), fields, losses)
    if prompt.output == Output():
        prompt = prompt.replace(output=output)
    return with_inputs(prompt, inputs, losses), losses


def _properties(schema: object, losses: Losses) -> dict[str, Any]:
    """JSON Schemas by input, out of JSON Schema or Picoschema."""
    if not isinstance(schema, dict):
        return {}
    if isinstance(properties := schema.get("properties"), dict):
        return {str(key): value for key, value in properties.items()}
    found: dict[str, Any] = {}
    for key, value in schema.items():
        match = re.fullmatch(r"([^\W\d]\w*)(\?)?(?:\((array|object|enum)(?:,\s*(.*))?\))?", str(key))
        if match is None:
            losses.append(f"input.schema {key!r:.80}")
            continue
        kind, _, note = value.partition(",") if isinstance(value, str) else ("", "", "")
        fields = {"type": match[3] or kind.strip(), "description": match[4] or note.strip()}
        if match[2]:
            losses.append(f"the input {match[1]!r} is optional")
        if match[3] == "enum":
            fields["type"] = "string"
            losses.append(f"the values that the input {match[1]!r} may take")
        found[match[1]] = {key: text for key, text in fields.items() if text}
    return found


def _output(front: dict[str, Any], losses: Losses) -> Output:
    said = front.get("output")
    said = said if isinstance(said, dict) else {}
    schema = said.get("schema")
    choices = schema.get("enum") if isinstance(schema, dict) and set(schema) <= {"type", "enum"} else None
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        try:
            return Output(choices=tuple(choices))
        except ValueError:
            pass
    if isinstance(schema, dict) and said.get("format", "json") == "json":
        try:
            output = Output(schema=schema)
        except ValueError:  # Picoschema, or what decoding cannot be constrained by
            pass
        else:
            losses += dropped(said, ("format", "schema"), "output.")
            return output
    losses += dropped(said, (), "output.")
    return Output()


def write(prompt: Prompt) -> tuple[str, Losses]:
    refuse_soft(prompt, "dotprompt")
    head: dict[str, Any] = {"name": prompt.name}
    if prompt.description:
        head["description"] = prompt.description
    if prompt.inputs is not None:
        properties = {name: {"type": spec.type, **fields_of(spec)} for name, spec in prompt.inputs.items()}
        needed = [name for name in prompt.variables if prompt.specs[name].default is None]
        schema = {"type": "object", "properties": properties, **({"required": needed} if needed else {})}
        head["input"] = {"schema": schema}
    if prompt.output.choices:
        head["output"] = {"schema": {"type": "string", "enum": list(prompt.output.choices)}}
    if prompt.output.json_schema is not None:
        head["output"] = {"format": "json", "schema": prompt.output.json_schema}
    left = own(prompt, "description", "inputs", *(() if prompt.output.log_prior else ("output",)))
    head |= {f"{OWN}.{key}": value for key, value in left.items()}
    front = write_yaml(head)
    nodes = from_body(prompt, "Handlebars")
    body = handlebars.write(nodes, prompt.name)
    if "<<<dotprompt:" in body:
        raise ForewordError(f"prompt {prompt.name!r}: '<<<dotprompt:' in its text would be read as a mark")
    edge = body.strip("\n") if any(isinstance(node, Mark) for node in nodes) else body
    losses = ["blanks at the beginning and the end"] if edge != edge.strip() else []
    return f"---\n{front}---\n{body}\n", losses
