"""Prompty files: YAML front matter, then Jinja in which lines such as `user:` begin a turn. Knows no models.

Format: microsoft/prompty, versions 1 and 2. `${env:…}` and `${file:…}` are never followed, and nothing under `model`,
where keys of services stand, is read or shown.
"""

import re
from typing import Any

from jinja2 import Environment

from foreword.errors import ForewordError
from foreword.prompts.file import Output
from foreword.prompts.formats import jinja
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
from foreword.prompts.formats.sketch import Body
from foreword.prompts.prompt import Prompt
from foreword.prompts.template import ROLES, new_environment
from foreword.yaml_text import write_yaml

TURN = re.compile(  # possessive, so that no line of blanks takes long
    r"^[ \t]*+(?:#[ \t]*+)?(system|user|assistant|developer)[ \t]*+(\[[^\]\n]*\])?[ \t]*+:[ \t]*+$", re.I | re.M
)
KINDS = {"string": "string", "integer": "integer", "float": "number", "number": "number", "boolean": "boolean",
         "array": "array"}  # fmt: skip
KEPT = ("name", "description", "inputs", "outputs", "template", "metadata")


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    front, source = front_matter(text)
    losses: Losses = []
    _check_template(front.get("template"))
    body = _body(source, losses)
    metadata = front.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    ours = metadata.get(OWN)
    fields = {"description": text_field(front.get("description")), **(ours if isinstance(ours, dict) else {})}
    inputs = inputs_of(_inputs(front.get("inputs"), losses), losses)
    output = _output(front.get("outputs"), losses)
    losses += dropped(metadata, (OWN,), "metadata ") + dropped(front, KEPT)
    prompt = build(prompt_name(front.get("name"), name, losses), body, fields, losses)
    if output.choices and not prompt.output.choices:
        prompt = prompt.replace(output=output)
    return with_inputs(prompt, inputs, losses), losses


def _check_template(said: object) -> None:
    form = said.get("format") if isinstance(said, dict) else said
    kind = form.get("kind") if isinstance(form, dict) else form
    if kind not in (None, "jinja2"):
        raise ForewordError(f"the template format {kind!r:.40} cannot be imported here; write it in Jinja")


def _body(source: str, losses: Losses) -> str:
    body = Body()
    found = list(jinja.tokens(source.removesuffix("\n"), Environment(keep_trailing_newline=True)))
    losses += jinja.differences(found)
    begun = False
    for number, (_, kind, text) in enumerate(found):
        if kind != "data":
            jinja.put(body, kind, text)
            continue
        place = 0
        for turn in _turns(found, number):
            before = text[place : turn.start()]
            begun = begun or bool(before.strip("\n")) or number > 0
            if before.strip("\n") or (begun and place == 0):
                body.literal(before.rstrip("\n") + "\n")
            role = turn[1].lower()
            if role == "developer":
                losses.append("the role 'developer': it is 'system' here")
            if turn[2]:
                losses.append(f"what stands in brackets behind {role!r}")
            body.expression(f"{'system' if role == 'developer' else role}()")
            place = turn.end() + 1
            begun = True
        body.literal(text[place:])
    if not any(_turns(found, number) for number in range(len(found))):
        losses.append("no turn is begun: Prompty makes a system message of the text, here it is plain text")
    return str(body)


def _turns(found: list[jinja.Token], number: int) -> list[re.Match[str]]:
    """The lines of a text that begin a turn: whole lines, so nothing else may stand on them."""
    _, kind, text = found[number]
    if kind != "data":
        return []
    return [
        turn
        for turn in TURN.finditer(text)
        if (turn.start() > 0 or number == 0) and (turn.end() < len(text) or number == len(found) - 1)
    ]


def _inputs(said: object, losses: Losses) -> dict[str, Any]:
    """JSON Schemas by input, out of either version's list or object."""
    if isinstance(said, list):
        said = {item["name"]: item for item in said if isinstance(item, dict) and isinstance(item.get("name"), str)}
    found: dict[str, Any] = {}
    for name, fields in said.items() if isinstance(said, dict) else ():
        fields = fields if isinstance(fields, dict) else {}
        kind = fields.get("kind", fields.get("type"))
        schema = {"description": text_field(fields.get("description"))}
        if kind is not None:
            schema["type"] = KINDS.get(kind, "object") if isinstance(kind, str) else "object"
        found[str(name)] = schema
        kept = ("name", "kind", "type", "description", "required")
        losses += [f"input {name!r:.80}: {loss}" for loss in dropped(fields, kept)]
    return found


def _output(said: object, losses: Losses) -> Output:
    if isinstance(said, dict):
        said = [{"name": name, **fields} for name, fields in said.items() if isinstance(fields, dict)]
    only = said[0] if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict) else {}
    choices = only.get("enumValues")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        try:
            return Output(choices=tuple(choices))
        except ValueError:
            pass
    if said:
        losses.append("'outputs'")
    return Output()


def write(prompt: Prompt) -> tuple[str, Losses]:
    jinja.refuse_soft(prompt, "Prompty")
    losses = jinja.differences(jinja.tokens(prompt.body, new_environment()))
    head: dict[str, Any] = {"name": prompt.name}
    if prompt.description:
        head["description"] = prompt.description
    if prompt.inputs is not None:
        kinds = {"number": "float"}
        head["inputs"] = [
            {"name": name, "kind": kinds.get(spec.type, spec.type)}
            | ({"items": {"kind": "string"}} if spec.type == "array" else {})
            | ({"description": spec.description} if spec.description else {})
            for name, spec in prompt.inputs.items()
        ]
    if prompt.output.choices:
        head["outputs"] = [{"name": "answer", "kind": "string", "enumValues": list(prompt.output.choices)}]
    native = ["description"] + (["output"] if prompt.output.choices and not prompt.output.log_prior else [])
    said: set[str] = set().union(*(fields_of(spec) for spec in (prompt.inputs or {}).values()))
    if not said - {"type", "description"}:
        native.append("inputs")
    if left := own(prompt, *native):
        head["metadata"] = {OWN: left}
    head["template"] = {"format": {"kind": "jinja2"}, "parser": {"kind": "prompty"}}
    front = write_yaml(head)
    return f"---\n{front}---\n{_source(prompt, losses)}\n", losses


def _source(prompt: Prompt, losses: Losses) -> str:
    written = ""
    found = list(jinja.tokens(prompt.body, new_environment()))
    calls = {f"{role}()": role for role in ROLES}
    roles = ["".join(text.split()) in calls for _, kind, text in found if kind == "expression"]
    if not any(roles):
        written = "user:\n"
        losses.append("plain text: it becomes one turn of the user")
    for token in found:
        line, kind, text = token
        role = calls.get("".join(text.split())) if kind == "expression" else None
        if role is not None:
            written += ("" if not written or written.endswith("\n") else "\n") + f"{role}:\n"
            continue
        if kind == "data" and TURN.search(text):
            raise ForewordError(
                f"prompt {prompt.name!r}, line {line}: a line such as 'user:' in its text would begin a turn in Prompty"
            )
        written += jinja.source(token)
    return written
