"""MLflow's prompt registry: what `mlflow.genai.register_prompt(**…)` takes, or a version as its API gives it, as JSON.

Format: mlflow 3: `template` is text or a list of messages; `{{ name }}` is a variable, and a template with `{%` in
it is Jinja. Tags are texts.
"""

import json
from typing import Any

from jinja2 import Environment

from foreword.errors import ForewordError
from foreword.prompts.formats import jinja
from foreword.prompts.formats.common import OWN, Losses, build, dropped, own, prompt_name, read_json
from foreword.prompts.formats.openai import messages, template, text_of, variables
from foreword.prompts.formats.sketch import Each, If, Mark, Node, from_body, joined, to_body, turns
from foreword.prompts.prompt import Prompt
from foreword.prompts.template import new_environment

LANGUAGE = "MLflow's prompts"
TEXT = "mlflow.prompt.text"
TYPE = "_mlflow_prompt_type"
KEPT = ("name", "template", "tags", "commit_message")
MARKS = ("mlflow.prompt.is_prompt", TEXT, TYPE)


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    found = read_json(text)
    losses: Losses = []
    if not isinstance(found, dict):
        raise ForewordError("the file holds no prompt of MLflow's, an object with a 'template'")
    tags = _tags(found.get("tags"))
    source: Any = found.get("template")
    if source is None and (source := tags.get(TEXT)) is not None and tags.get(TYPE) == "chat":
        source = read_json(source)
    fields = _own(tags)
    if "description" not in fields and isinstance(found.get("commit_message"), str):
        fields["description"] = found["commit_message"]
    losses += dropped(found, KEPT) + dropped(tags, (*MARKS, OWN), "tag ")
    if isinstance(source, list):
        body = _chat(source, losses)
    elif isinstance(source, str):
        body = jinja.ours(source) if "{%" in source else to_body(variables(source))
        losses += jinja.differences(jinja.tokens(source, Environment())) if "{%" in source else []
    else:
        raise ForewordError("the file has no 'template', neither text nor a list of messages")
    return build(prompt_name(found.get("name"), name, losses), body, fields, losses), losses


def _tags(found: object) -> dict[str, str]:
    if isinstance(found, list):  # as the API has them
        found = {str(tag.get("key")): tag.get("value") for tag in found if isinstance(tag, dict)}
    tags = found if isinstance(found, dict) else {}
    return {key: value for key, value in tags.items() if isinstance(key, str) and isinstance(value, str)}


def _own(tags: dict[str, str]) -> dict[str, Any]:
    fields = read_json(tags[OWN]) if OWN in tags else {}
    return fields if isinstance(fields, dict) else {}


def _chat(source: list[Any], losses: Losses) -> str:
    nodes = messages(source, losses)
    if not any("{%" in text_of(message["content"], number) for number, message in enumerate(source, 1)):
        return to_body(nodes)
    marks = [node for node in nodes if isinstance(node, Mark)]
    texts = [jinja.ours(text_of(message["content"], number)) for number, message in enumerate(source, 1)]
    for number, message in enumerate(source, 1):
        losses += jinja.differences(jinja.tokens(text_of(message["content"], number), Environment()))
    return "".join(to_body([mark]) + text.removesuffix("\n") for mark, text in zip(marks, texts, strict=True))


def write(prompt: Prompt) -> tuple[str, Losses]:
    jinja.refuse_soft(prompt, LANGUAGE)
    document: dict[str, Any] = {"name": prompt.name, "template": _template(prompt)}
    if prompt.description:
        document["commit_message"] = prompt.description
    if fields := own(prompt, "description"):
        document["tags"] = {OWN: json.dumps(fields, ensure_ascii=False)}
    found = list(jinja.tokens(prompt.body, new_environment()))
    losses = jinja.differences(found) if any(kind == "block" for _, kind, _ in found) else []
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n", losses


def _template(prompt: Prompt) -> str | list[dict[str, str]]:
    kinds = {kind for _, kind, _ in jinja.tokens(prompt.body, new_environment())}
    has_turns = any(f"{role}(" in prompt.body for role in ("system", "user", "assistant"))
    if "block" in kinds and not has_turns:
        return jinja.theirs(prompt.body)
    parts = turns(from_body(prompt, LANGUAGE), prompt.name, LANGUAGE)
    if parts[0][0] is None:
        return _text(parts[0][1], prompt.name)
    blocks = any(isinstance(node, Each | If) for _, content in parts for node in content)
    return [{"role": role or "user", "content": _text(content, prompt.name, blocks=blocks)} for role, content in parts]


def _text(content: tuple[Node, ...], name: str, *, blocks: bool = False) -> str:
    if blocks:  # one turn with Jinja in it makes Jinja of all
        return jinja.theirs(to_body(content))
    text = template(joined(content), name, LANGUAGE)
    if "{%" in text:
        raise ForewordError(f"prompt {name!r}: text with '{{%' would be read as Jinja in {LANGUAGE}")
    return text
