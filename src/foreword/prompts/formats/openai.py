"""OpenAI's chat messages as JSON: a list, or the request that holds one. `{{name}}` is a variable, as in its dashboard.

Knows no templates beyond that: all else in a message is text.
"""

import json
import re
from typing import Any

from foreword.errors import ForewordError
from foreword.prompts.formats.common import Losses, dropped, own, read_json
from foreword.prompts.formats.jinja import refuse_soft
from foreword.prompts.formats.sketch import Mark, Node, Var, from_body, joined, plain, to_body, turns
from foreword.prompts.prompt import Prompt

VARIABLE = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*\}\}")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
LANGUAGE = "a list of messages"


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    found = read_json(text)
    losses: Losses = []
    if isinstance(found, dict):
        losses += dropped(found, ("messages",))
        found = found.get("messages")
    return Prompt(name, to_body(messages(found, losses))), losses


def write(prompt: Prompt) -> tuple[str, Losses]:
    refuse_soft(prompt, "a list of messages")
    losses = [f"{key!r}" for key in own(prompt)]
    written = []
    for role, content in turns(from_body(prompt, LANGUAGE), prompt.name, LANGUAGE):
        if role is None:
            losses.append("plain text: it becomes one turn of the user")
        written.append({"role": role or "user", "content": template(content, prompt.name, LANGUAGE)})
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n", losses


def messages(found: object, losses: Losses) -> tuple[Node, ...]:
    """The nodes of a list of messages."""
    if not isinstance(found, list) or not found:
        raise ForewordError("the file holds no list of messages, each with a role and a content")
    nodes: list[Node] = []
    for number, message in enumerate(found, 1):
        fields: dict[str, Any] = message if isinstance(message, dict) else {}
        role = fields.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise ForewordError(f"message {number} has the role {role!r:.40}; there are {', '.join(ROLES)} here")
        if role == "developer":
            losses.append("the role 'developer': it is 'system' here")
        losses += dropped(fields, ("role", "content"), f"message {number}: ")
        nodes += [Mark(ROLES[role]), *variables(text_of(fields.get("content"), number))]
    return joined(nodes)


def text_of(content: Any, number: int) -> str:
    """A message's text, also where it comes in parts. Raises ForewordError where there is more, such as a picture."""
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else [None]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ForewordError(f"message {number} holds more than text; only text can be imported")
    return "".join(part["text"] for part in parts)


def variables(text: str) -> tuple[Node, ...]:
    """Text in which `{{name}}` stands for a value and nothing else means anything."""
    found: list[Node] = []
    place = 0
    for match in VARIABLE.finditer(text):
        found += [text[place : match.start()], Var((match[1],))]
        place = match.end()
    return joined([*found, text[place:]])


def template(content: tuple[Node, ...], name: str, language: str) -> str:
    """The text of nodes; raises ForewordError where it would not be read as it was written."""
    parts = plain(content, name, language)
    text = "".join(part if isinstance(part, str) else f"{{{{{part.path[0]}}}}}" for part in parts)
    if variables(text) != tuple(parts):
        raise ForewordError(f"prompt {name!r}: text with double braces would become a variable in {language}")
    return text
