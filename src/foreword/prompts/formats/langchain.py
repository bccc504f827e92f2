"""LangChain's prompts as JSON: `dumpd`'s form and that of `load_prompt`. Knows no LangChain; nothing is constructed.

Format: langchain-core 1: PromptTemplate, ChatPromptTemplate with its messages, FewShotPromptTemplate (in
`load_prompt` only). LangChain loads f-strings alone: files with Jinja in them are read here and never written.
"""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

from foreword.errors import ForewordError
from foreword.prompts.formats import fstring, handlebars, jinja
from foreword.prompts.formats.common import OWN, Losses, build, dropped, own, prompt_name, read_json
from foreword.prompts.formats.sketch import Mark, Node, Var, from_body, joined, plain, to_body, turns
from foreword.prompts.prompt import Prompt

LANGUAGE = "LangChain's f-strings"
ROLES = {
    "SystemMessagePromptTemplate": "system",
    "HumanMessagePromptTemplate": "user",
    "AIMessagePromptTemplate": "assistant",
}
MESSAGES = {"SystemMessage": "system", "HumanMessage": "user", "AIMessage": "assistant"}
NAMES = {"prompt": "PromptTemplate", "few_shot": "FewShotPromptTemplate", "chat": "ChatPromptTemplate"}
ALWAYS = ("_type", "name", "input_variables", "template", "template_format", "validate_template", "metadata")
SHOTS = ("prefix", "suffix", "examples", "example_prompt", "example_separator")
MAX_EXAMPLES = 1_000


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    found = read_json(text)
    losses: Losses = []
    kind, fields = _object(found)
    match kind:
        case "PromptTemplate":
            body = _body(fields, losses)
        case "FewShotPromptTemplate":
            body = to_body(_few_shot(fields, losses))
        case "ChatPromptTemplate":
            body = _chat(fields, losses)
        case _:
            raise ForewordError(f"{kind!r:.60} cannot be imported; there are {', '.join(NAMES.values())}")
    metadata = fields.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    ours = metadata.get(OWN)
    losses += dropped(metadata, (OWN,), "metadata ")
    losses += dropped(fields, (*ALWAYS, *SHOTS, "messages", "optional_variables", "partial_variables"))
    named = prompt_name(fields.get("name"), name, losses)
    return build(named, body, ours if isinstance(ours, dict) else {}, losses), losses


def _object(found: object) -> tuple[str, Mapping[str, Any]]:
    """The class and the fields of one of LangChain's objects."""
    if not isinstance(found, dict):
        raise ForewordError("the file holds no prompt of LangChain's")
    if "lc" in found:
        path, fields = found.get("id"), found.get("kwargs")
        kind = path[-1] if isinstance(path, list) and path and isinstance(path[-1], str) else ""
        if found.get("type") != "constructor" or not isinstance(fields, dict):
            raise ForewordError(f"{kind or 'an object'!r:.60} of type {found.get('type')!r:.40} holds no prompt")
        return kind, fields
    kind = found.get("_type", "prompt")
    return NAMES.get(kind, str(kind)) if isinstance(kind, str) else "", found


def _body(fields: Mapping[str, Any], losses: Losses) -> str:
    if fields.get("template_format") == "jinja2" and isinstance(fields.get("template"), str):
        losses += dropped(_partial(fields), (), "the value set for ")
        losses += jinja.differences(jinja.tokens(fields["template"], Environment()))
        return jinja.ours(fields["template"])
    return to_body(_nodes(fields, _partial(fields), losses))


def _partial(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    values = fields.get("partial_variables")
    return values if isinstance(values, dict) else {}


def _nodes(fields: Mapping[str, Any], values: Mapping[str, Any], losses: Losses) -> tuple[Node, ...]:
    """A template's nodes, with the values that are set for it written in."""
    source, form = fields.get("template"), fields.get("template_format", "f-string")
    if not isinstance(source, str):
        reason = "is in another file, which is not read" if "template_path" in fields else "is missing"
        raise ForewordError(f"the prompt's 'template' {reason}; put it into this file")
    match form:
        case "f-string":
            nodes = fstring.nodes(source)
        case "mustache":
            nodes = tuple(plain(handlebars.parse(source, losses), "", "a mustache template without sections"))
        case _:
            raise ForewordError(f"the template format {form!r:.40} cannot be imported here; write it as an f-string")
    return joined([_filled(node, {**_partial(fields), **values}) for node in nodes])


def _filled(node: Node, values: Mapping[str, Any]) -> Node:
    if isinstance(node, Var) and isinstance(value := values.get(node.path[0]), str | int | float):
        return str(value)
    return node


def _chat(fields: Mapping[str, Any], losses: Losses) -> str:
    messages, values = fields.get("messages"), _partial(fields)
    if not isinstance(messages, list) or not messages:
        raise ForewordError("the chat prompt has no list of messages")
    parts: list[str] = []
    for message in messages:
        kind, inside = _object(message)
        if kind in MESSAGES and isinstance(inside.get("content"), str):
            parts.append(to_body([Mark(MESSAGES[kind]), inside["content"]]).removesuffix("\n"))
        elif kind == "MessagesPlaceholder":
            losses.append(f"the place of the messages {inside.get('variable_name')!r:.60}")
        elif kind in ROLES:
            mark = to_body([Mark(ROLES[kind])])
            parts.append(mark + "".join(_content(inside.get("prompt"), values, losses)))
        else:
            raise ForewordError(f"a message of the class {kind!r:.60} cannot be imported")
    return "".join(parts)


def _content(prompt: object, values: Mapping[str, Any], losses: Losses) -> list[str]:
    parts = prompt if isinstance(prompt, list) else [prompt]
    written = []
    for part in parts:
        kind, fields = _object(part)
        if kind != "PromptTemplate":
            raise ForewordError(f"a message with {kind!r:.60} holds more than text; only text can be imported")
        fields = {**fields, "partial_variables": {**_partial(fields), **values}}
        written.append(_body(fields, losses).removesuffix("\n"))
    return written


def _few_shot(fields: Mapping[str, Any], losses: Losses) -> tuple[Node, ...]:
    """The examples are written out: that is what a prompt with examples is here."""
    examples = fields.get("examples")
    if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise ForewordError("the prompt's examples stand in another file or are chosen by a program; write them out")
    if len(examples) > MAX_EXAMPLES:
        raise ForewordError(f"the prompt has {len(examples):,} examples, {MAX_EXAMPLES:,} at most")
    losses.append("the list of examples: they are written out in the text")
    form = {"template_format": fields.get("template_format", "f-string")}
    shot = _object(fields.get("example_prompt"))[1]
    parts = [
        _nodes({**form, "template": fields.get("prefix") or ""}, _partial(fields), losses),
        *(_nodes(shot, example, losses) for example in examples),
        _nodes({**form, "template": fields.get("suffix") or ""}, _partial(fields), losses),
    ]
    separator = fields.get("example_separator")
    separator = separator if isinstance(separator, str) else "\n\n"
    written: list[Node] = []
    for part in filter(None, parts):
        written += [separator, *part] if written else [*part]
    return joined(written)


def write(prompt: Prompt) -> tuple[str, Losses]:
    jinja.refuse_soft(prompt, LANGUAGE)
    parts = turns(from_body(prompt, LANGUAGE), prompt.name, LANGUAGE)
    extra: dict[str, Any] = {"name": prompt.name}
    if fields := own(prompt):
        extra["metadata"] = {OWN: fields}
    if parts[0][0] is None:
        document = _prompt_template(prompt.name, parts[0][1], extra)
    else:
        classes = {role: kind for kind, role in ROLES.items()}
        messages = [
            _constructor("chat", classes[role or "user"], {"prompt": _prompt_template(prompt.name, content, {})})
            for role, content in parts
        ]
        names = sorted({name for _, content in parts for name in _variables(content)})
        document = _constructor("chat", "ChatPromptTemplate", {"input_variables": names, "messages": messages, **extra})
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n", []


def _prompt_template(name: str, content: tuple[Node, ...], extra: Mapping[str, Any]) -> dict[str, Any]:
    text = fstring.template(plain(content, name, LANGUAGE))
    fields = {"input_variables": _variables(content), "template": text, "template_format": "f-string"}
    return _constructor("prompt", "PromptTemplate", {**fields, **extra})


def _variables(content: tuple[Node, ...]) -> list[str]:
    return sorted({node.path[0] for node in content if isinstance(node, Var)})


def _constructor(module: str, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"lc": 1, "type": "constructor", "id": ["langchain", "prompts", module, kind], "kwargs": dict(fields)}
