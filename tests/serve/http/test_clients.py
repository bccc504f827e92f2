"""Clients of others, unchanged, against a real server on a tiny random model."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from transformers import AutoModelForCausalLM

import tiny
from foreword.backbone import Backbone
from foreword.prompts import Output, Prompt
from foreword.serve.engines.local import LocalEngine
from foreword.serve.http.server import address, build_server, open_socket
from foreword.serve.http.service import Limits
from foreword.serve.start import make_service
from foreword.table import PromptTable

BARE = "tiny-llama"


class Verdict(BaseModel):
    """A random model cannot go wrong within it."""

    good: bool
    kind: None


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    config = tiny.config("llama")
    config.max_position_embeddings = 2_048  # a tokenizer of letters makes long texts of what clients say of tools
    torch.manual_seed(0)
    return Backbone(AutoModelForCausalLM.from_config(config), tiny.tokenizer(), BARE)


@pytest.fixture(scope="module")
def url(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    table = PromptTable.open(tmp_path_factory.mktemp("table") / "prompts.db")
    table.put(Prompt("mood", "Review: {{ text }}", output=Output(choices=("bad", "good"))), alias="prod")
    table.put(Prompt("say", "{{ user() }}Say {{ word }} to {{ reader }}."))
    app, service = make_service(
        backbone, LocalEngine(backbone), table, None, Limits(default_tokens=12, json_tokens=256)
    )
    bound = open_socket("127.0.0.1", 0, None)
    server = build_server(app, service, 5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield f"{address(bound)}/v1"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def langchain(url: str, model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=url, api_key="none", max_retries=0, **more)  # type: ignore[arg-type]


def test_langchain(url: str) -> None:
    bare = langchain(url, BARE, max_tokens=6)
    said = bare.invoke("a quiet film")
    assert said.usage_metadata is not None
    assert said.usage_metadata["output_tokens"] == 6
    assert "".join(str(chunk.content) for chunk in bare.stream("a quiet film")) == said.content
    assert [m.content for m in bare.batch(["a quiet film", "silly"])] == [said.content, bare.invoke("silly").content]
    assert langchain(url, "mood@prod").invoke("silly").content in ("bad", "good")
    inputs = {"word": "good", "reader": "me"}
    whole = langchain(url, "say", extra_body={"inputs": inputs}, max_tokens=6).invoke([])
    last = langchain(url, "say", extra_body={"inputs": {"word": "good"}}, max_tokens=6).invoke("me")
    assert whole.content == last.content

    for method in ("json_schema", "function_calling"):
        found = langchain(url, BARE).with_structured_output(Verdict, method=method).invoke("good?")
        assert isinstance(found, Verdict)
    told = langchain(url, BARE, max_tokens=3).bind(response_format={"type": "json_object"}).invoke("good?")
    assert str(told.content).startswith("{")

    @tool
    def rate(good: bool) -> str:
        """Rate a film."""
        return str(good)

    calls = langchain(url, BARE).bind_tools([rate], tool_choice="any").invoke("good?").tool_calls
    assert [call["name"] for call in calls] == ["rate"]
    assert isinstance(calls[0]["args"]["good"], bool)


def test_pydantic_ai(url: str) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            provider = OpenAIProvider(openai_client=client)

            def agent(model: str, **more: Any) -> Agent[None, Any]:
                return Agent(OpenAIChatModel(model, provider=provider), **more)

            assert (await agent("mood@prod", instructions="Be brief.").run("silly")).output in ("bad", "good")
            for form in (Verdict, NativeOutput(Verdict)):
                assert isinstance((await agent(BARE, output_type=form).run("good?")).output, Verdict)
            settings = ModelSettings(max_tokens=6)
            whole = (await agent(BARE).run("a quiet film", model_settings=settings)).output
            async with agent(BARE).run_stream("a quiet film", model_settings=settings) as streamed:
                assert "".join([part async for part in streamed.stream_text(delta=True)]) == whole

    asyncio.run(main())


def test_the_request_that_lm_eval_scores_by(url: str, backbone: Backbone) -> None:
    texts = ["Review: a quiet film", "What is very good?"]
    with openai.OpenAI(base_url=url, api_key="none") as client:
        found = client.completions.create(
            model=BARE, prompt=texts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
        )
        empty = client.completions.create(model=BARE, prompt=texts[0], max_tokens=0, logprobs=1, echo=True)
    for text, choice in zip(texts, found.choices, strict=True):
        told = choice.logprobs
        ids = torch.tensor([backbone.tokenizer.encode(text)])
        with torch.no_grad():
            expected = torch.log_softmax(backbone.model(input_ids=ids).logits[0], -1)
        assert told is not None
        assert told.token_logprobs is not None
        assert told.top_logprobs is not None
        assert told.text_offset is not None
        assert told.token_logprobs[0] is None
        own = expected[range(len(expected) - 1), ids[0, 1:]]
        assert told.token_logprobs[1:-1] == pytest.approx(own.tolist(), abs=1e-3)
        largest = [max(top.values()) for top in told.top_logprobs[1:]]
        assert largest == pytest.approx(expected.max(1).values.tolist(), abs=1e-3)
        assert told.token_logprobs[-1] == largest[-1]
        assert choice.text.startswith(text)
        assert [choice.text[place:] for place in told.text_offset][-2].startswith(told.tokens[-2])  # type: ignore[index]
    assert empty.choices[0].text == texts[0]
    assert empty.usage is not None
    assert empty.usage.completion_tokens == 0
