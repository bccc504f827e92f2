"""Answers held to schemas, through HTTP, by a real engine on a tiny random model."""

import functools
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import tiny
from foreword.prompts import Prompt
from foreword.serve.engines.local import LocalEngine
from foreword.serve.http.server import address, build_server, open_socket
from foreword.serve.http.service import Limits
from foreword.serve.start import make_service
from foreword.table import PromptTable
from serving import refused

MOOD = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mood", "stars"],
}
USER: Any = [{"role": "user", "content": "a quiet film"}]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[openai.OpenAI]:
    table = PromptTable.open(tmp_path / "prompts.db")
    table.put(Prompt("free", "Review: {{ text }}\nJSON:"))
    table.put(Prompt.load(_file(tmp_path)))
    backbone = tiny.backbone()
    backbone.model.generation_config.eos_token_id = 0  # its default is an ordinary word of this tokenizer
    app, service = make_service(backbone, LocalEngine(backbone), table, None, Limits())
    bound = open_socket("127.0.0.1", 0, None)
    server = build_server(app, service, 5.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    with openai.OpenAI(base_url=f"{address(bound)}/v1", api_key="none", max_retries=3) as client:
        yield client
    server.handle_exit(15, None)
    thread.join(10)
    assert not thread.is_alive()


def _file(folder: Path) -> Path:
    path = folder / "mood.prompt"
    path.write_text(f"---\noutput: {{schema: {json.dumps(MOOD)}}}\n---\nReview: {{{{ text }}}}\nJSON:\n")
    return path


def _fits(text: str | None) -> bool:
    value = json.loads(text or "")
    return set(value) == {"mood", "stars"} and value["mood"] in ("good", "bad") and 1 <= value["stars"] <= 5


def test_schemas_hold_what_a_random_model_writes(client: openai.OpenAI) -> None:
    ask: Any = functools.partial(client.chat.completions.create, max_tokens=200)
    form = {"type": "json_schema", "json_schema": {"name": "mood", "schema": MOOD, "strict": True}}
    for temperature in (0, 1):
        answer = ask(model="free", messages=USER, response_format=form, temperature=temperature, seed=1, n=2)
        assert all(_fits(choice.message.content) for choice in answer.choices)
    assert _fits(ask(model="mood", messages=USER).choices[0].message.content)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(model="mood", messages=USER, stream=True))
    assert _fits(streamed)
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "pattern": "("}}}
    with refused(openai.BadRequestError, param="response_format"):
        ask(model="free", messages=USER, response_format=bad)

    tools = [{"type": "function", "function": {"name": "rate", "parameters": MOOD}}]
    for options in ({"tool_choice": "required"}, {"tool_choice": {"type": "function", "function": {"name": "rate"}}}):
        choice = ask(model="free", messages=USER, tools=tools, **options).choices[0]
        assert choice.finish_reason == "tool_calls"
        assert _fits(choice.message.tool_calls[0].function.arguments)


def test_without_llguidance_schemas_are_refused_clearly(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with refused(openai.BadRequestError, param="response_format") as caught:
        client.chat.completions.create(model="mood", messages=USER)
    assert "foreword[structured]" in str(caught.value)
    assert client.chat.completions.create(model="free", messages=USER, max_tokens=4).choices
