"""Tool calls through a schema: an answer is a call of one of the tools, or, where that is allowed, a reply in words.

A small model has not been trained to choose tools, but its decoding can be constrained to their schemas. So what it
writes is `{"tool": …, "arguments": {…}}`, always valid, and a reply is one more tool, whose argument is the text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foreword.serve.http.bodies import ChatBody, Message, NamedTool, Tool
from foreword.serve.http.refusals import bad

REPLY = "reply"
REPLY_LENGTH = 2_000
"""Characters of a reply in words."""
NOTHING = {"type": "null"}
"""Arguments of a tool that takes none."""


class Toolbox:
    """The tools of one request; `reply` names the one that stands for words, None where a call is required."""

    def __init__(self, tools: Sequence[Tool], *, replies: bool) -> None:
        self._tools = [tool.function for tool in tools]
        names = [tool.name for tool in self._tools]
        if len(set(names)) < len(names):
            raise bad("two tools have one name", "tools")
        self._reply = next(name for i in range(99) if (name := f"{REPLY}{i or ''}") not in names) if replies else None

    @classmethod
    def of(cls, body: ChatBody) -> "Toolbox | None":
        """Those that a request lets the model choose from; None where it must not call any."""
        chosen = body.tool_choice
        if not body.tools:
            if chosen not in (None, "none", "auto"):
                raise bad("'tool_choice' asks for a call, and there are no 'tools'", "tool_choice")
            return None
        if chosen == "none":
            return None
        if not isinstance(chosen, NamedTool):
            return cls(body.tools, replies=chosen != "required")
        tools = [tool for tool in body.tools if tool.function.name == chosen.function.name]
        if not tools:
            raise bad(f"there is no tool {chosen.function.name!r} among 'tools'", "tool_choice")
        return cls(tools, replies=False)

    @property
    def schema(self) -> dict[str, Any]:
        """The schema that an answer is constrained to."""
        calls = [_call(tool.name, tool.parameters) for tool in self._tools]
        if self._reply is not None:
            text = {"type": "string", "maxLength": REPLY_LENGTH}
            parameters = {"type": "object", "properties": {"text": text}, "required": ["text"]}
            calls.append(_call(self._reply, parameters))
        return calls[0] if len(calls) == 1 else {"anyOf": calls}

    @property
    def instructions(self) -> str:
        """What the model is told of them, where no stored prompt does."""
        lines = [
            json.dumps({"tool": tool.name, "description": tool.description, "parameters": tool.parameters or {}})
            for tool in self._tools
        ]
        if self._reply is not None:
            lines.append(json.dumps({"tool": self._reply, "description": "Answer in words: {text}"}))
        form = '{"tool": name, "arguments": {…}}'
        return "\n".join([f"Answer with one JSON object of the form {form}. The tools are:", *lines])

    def read(self, text: str, call_id: str) -> dict[str, Any]:
        """The message that an answer spells out; its text as it is where it was cut off."""
        try:
            answer = json.loads(text)
            name, arguments = answer["tool"], answer["arguments"]
            if name == self._reply:
                return {"role": "assistant", "content": str(arguments["text"])}
        except (ValueError, LookupError, TypeError):
            return {"role": "assistant", "content": text}
        function = {"name": name, "arguments": json.dumps(arguments or {}, ensure_ascii=False)}
        call = {"id": call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


def _call(name: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    takes = parameters if parameters and parameters.get("properties") else NOTHING
    properties = {"tool": {"const": name}, "arguments": dict(takes)}
    return {"type": "object", "properties": properties, "required": ["tool", "arguments"]}


def to_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as a chat template takes them: earlier calls as the model wrote them, results as a user's words."""
    turns = []
    for message in messages:
        role, text = message.role, message.text
        if role == "developer":
            role = "system"
        elif role == "tool":
            role, text = "user", f"The tool gave: {text}"
        for call in message.tool_calls or ():
            text += _written(call.function.name, call.function.arguments)
        turns.append({"role": role, "content": text})
    return turns


def _written(name: str, arguments: str) -> str:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = arguments
    return json.dumps({"tool": name, "arguments": value}, ensure_ascii=False)
