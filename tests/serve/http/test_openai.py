"""Every route, driven by the openai package's own client."""

import json
import threading
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from foreword.prompts import Input, Partial, Prompt
from foreword.serve.http.bodies import ChatBody
from serving import BACKBONE, House, refused

USER = [{"role": "user", "content": "one two three"}]


def chat(house: House, model: str = "echo", **options: Any) -> Any:
    return house.client().chat.completions.create(**{"model": model, "messages": USER, **options})  # type: ignore[call-overload]


def test_models_are_the_backbone_and_every_name_alias_and_version(house: House) -> None:
    models = {model.id: model for model in house.client().models.list()}
    assert set(models) == {
        BACKBONE, "echo", "echo:2", "echo@prod", "echo:1", "two", "two:1", "mood", "mood:1", "mood@prod",
        "history", "history:1",
    }  # fmt: skip
    assert models[BACKBONE].parent is None  # type: ignore[attr-defined]
    assert {model.parent for name, model in models.items() if name != BACKBONE} == {BACKBONE}  # type: ignore[attr-defined]
    assert house.client().models.retrieve("echo@prod").root == "echo:1"  # type: ignore[attr-defined]
    with refused(openai.NotFoundError, "model_not_found"):
        house.client().models.retrieve("nothing")


@pytest.mark.parametrize(
    ("model", "says"), [("echo", "You said now:"), ("echo@prod", "You said:"), ("echo:1", "You said:")]
)
def test_a_chat_is_answered_by_the_version_that_its_name_stands_for(house: House, model: str, says: str) -> None:
    answer = chat(house, model)
    assert answer.choices[0].message.content == f"{says} one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.system_fingerprint == ("echo:2" if model == "echo" else "echo:1")
    written = len(f"{says} one two three".split())
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (written + 2, written)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_a_stream_holds_the_same_as_the_whole(house: House) -> None:
    whole = chat(house, max_tokens=4)
    chunks = list(chat(house, max_tokens=4, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == [whole.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    raw = house.client().post(
        "/chat/completions", body={"model": "echo", "messages": USER, "stream": True}, cast_to=str
    )
    assert raw.endswith("data: [DONE]\n\n")
    assert all(json.loads(line[6:]) for line in raw.split("\n\n")[:-2])


def test_what_is_asked_for_reaches_the_engine(house: House) -> None:
    chat(house, temperature=0.5, top_p=0.9, seed=11, n=3, stop=["END", "\n"], max_completion_tokens=9)
    rows = house.engine.seen
    assert [row.sampling.seed for row in rows] == [11, 12, 13]
    assert {(r.sampling.temperature, r.sampling.top_p, r.sampling.stop, r.sampling.max_tokens) for r in rows} == {
        (0.5, 0.9, ("END", "\n"), 9)
    }
    assert {row.key for row in rows} == {"echo:2"}
    assert all(row.deadline is not None and row.schema is None and row.logprobs == 0 for row in rows)
    chat(house)
    assert house.engine.seen[-1].sampling.temperature == 0
    chat(house, temperature=1)
    chat(house, temperature=1)
    assert house.engine.seen[-1].sampling.seed != house.engine.seen[-2].sampling.seed


def test_several_answers_come_side_by_side_and_their_prompt_counts_once(house: House) -> None:
    answer = chat(house, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.prompt_tokens == 8
    assert answer.usage.completion_tokens == 12
    texts = ["", ""]
    for chunk in chat(house, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["You said now: one two three"] * 2


def test_log_probabilities(house: House) -> None:
    told = chat(house, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [token.token for token in told[:2]] == ["You", " said"]
    assert told[0].logprob == -0.5
    assert [top.token for top in told[0].top_logprobs] == ["t0", "t1"]
    assert told[0].bytes == list(b"You")
    assert chat(house, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    streamed = [c.choices[0].logprobs for c in chat(house, logprobs=True, top_logprobs=2, stream=True)]
    assert [token for one in streamed if one for token in one.content] == told
    old = house.client().completions.create(model="echo", prompt="one two", logprobs=1).choices[0]
    assert old.logprobs is not None
    assert old.logprobs.tokens == ["You", " said", " now:", " one", " two"]
    assert old.logprobs.text_offset == [0, 3, 8, 13, 17]
    assert old.logprobs.top_logprobs == [{"t0": -1.0}] * 5
    with refused(openai.BadRequestError, param="top_logprobs"):
        chat(house, top_logprobs=2)


def test_inputs_come_by_name_or_from_the_last_user_message(house: House) -> None:
    def text(model: str, messages: Any, **inputs: str) -> str:
        answer = chat(house, model, messages=messages, extra_body={"inputs": inputs} if inputs else {})
        return str(answer.choices[0].message.content)

    assert text("two", [], first="a", second="b") == "a and b"
    assert text("two", USER, first="a") == "a and one two three"
    assert text("echo", [{"role": "user", "content": "old"}, {"role": "assistant", "content": "no"}, *USER]).endswith(
        "now: one two three"
    )
    assert text("echo", [{**USER[0], "type": "text"}]).endswith("now: one two three")  # as lm-eval sends it
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert text("echo", parts).endswith("now: ab")
    assert text("history", [{"role": "developer", "content": "be"}, *USER]) == "[system] be [user] one two three"
    with refused(openai.BadRequestError, param="inputs"):
        text("two", USER)
    with refused(openai.BadRequestError, param="inputs") as caught:
        text("echo", USER, other="x")
    assert "no input 'other'; it takes ['text']" in str(caught.value)
    greeting = Prompt("greeting", "{{ tone }}: ", {"tone": Input(default="Kindly")})
    house.table.put(greeting, alias="prod")
    partial = {"greeting@prod": Partial(house.table.get("greeting"))}
    house.table.put(Prompt("included", "{% include 'greeting@prod' %}{{ text }} now", includes=partial))
    assert text("included", USER) == "Kindly: one two three now"


def test_the_bare_backbone_reads_a_chat_or_a_text(house: House) -> None:
    chat(house, BACKBONE, messages=[{"role": "system", "content": "be brief"}, *USER])
    request = house.engine.seen[-1]
    kinds = [getattr(piece, "role", None) or piece.text for piece in request.prompt.render(request.inputs)]  # type: ignore[union-attr]
    assert kinds == ["system", "be brief", "user", "one two three"]
    done = house.client().completions.create(model=BACKBONE, prompt=["one two", "three"], n=2)
    assert [choice.text for choice in done.choices] == ["one two", "one two", "three", "three"]
    with refused(openai.BadRequestError, param="inputs"):
        chat(house, BACKBONE, extra_body={"inputs": {"text": "x"}})


def test_completions_stream(house: House) -> None:
    chunks = list(house.client().completions.create(
        model="echo", prompt="one two", stream=True, stream_options={"include_usage": True}, logprobs=0
    ))  # fmt: skip
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "You said now: one two"
    assert [c.choices[0].logprobs.text_offset for c in chunks[:3] if c.choices[0].logprobs] == [[0], [3], [8]]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_choices_with_probabilities(house: House) -> None:
    got: Any = house.client().post("/classify", body={"model": "mood", "input": "a good film"}, cast_to=object)
    assert got["value"] == "good"
    assert [choice["text"] for choice in got["choices"]] == ["bad", "good"]
    assert sum(choice["probability"] for choice in got["choices"]) == pytest.approx(1)
    assert got["choices"][1]["probability"] == pytest.approx(1 / (1 + 2.718281828**-1.5))
    assert chat(house, "mood", messages=[{"role": "user", "content": "bad"}]).choices[0].message.content == "bad"
    chunks = list(chat(house, "mood", messages=[{"role": "user", "content": "bad"}], stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["bad", None]
    for model, param in (("echo", "model"), (BACKBONE, "model")):
        with refused(openai.BadRequestError, param=param):
            house.client().post("/classify", body={"model": model, "input": "x"}, cast_to=object)
    with refused(openai.BadRequestError):
        house.client().completions.create(model="mood", prompt="x")


@pytest.mark.parametrize(
    ("options", "kind", "param"),
    [
        ({"model": "no such"}, openai.NotFoundError, "model"),
        ({"model": "echo:9"}, openai.NotFoundError, "model"),
        ({"model": "echo@nowhere"}, openai.NotFoundError, "model"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 5000}, openai.BadRequestError, "max_tokens"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"n": 17}, openai.BadRequestError, "n"),
        ({"frequency_penalty": 0.5}, openai.BadRequestError, "frequency_penalty"),
        ({"extra_body": {"inptus": {}}}, openai.BadRequestError, "inptus"),
        ({"response_format": {"type": "json_schema"}}, openai.BadRequestError, "response_format"),
        ({"messages": [{"role": "user", "content": "!full"}]}, openai.RateLimitError, None),
        ({"messages": [{"role": "user", "content": "!bug"}]}, openai.InternalServerError, None),
        ({"messages": [{"role": "user", "content": "!error"}]}, openai.InternalServerError, None),
        ({"messages": [{"role": "user", "content": "!deadline"}]}, openai.InternalServerError, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_openais_form(house: House, options: Any, kind: Any, param: str | None, stream: bool) -> None:
    said = options.get("messages", [{}])[0].get("content")
    if stream and said in ("!error", "!deadline"):
        kind = openai.APIError  # the status went out with the first word
    with pytest.raises(kind) as caught:
        for _ in chat(house, stream=stream, **options) if stream else [chat(house, **options)]:
            pass
    body: Any = caught.value.body
    assert "secret" not in json.dumps(body)
    if param is not None:
        assert body["param"] == param
    if kind is openai.RateLimitError:
        assert caught.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"", b"nothing", b"[" * 100_000, b'{"model": NaN}', b'"\xff"',
        {"model": "echo", "messages": [{"role": "user", "content": "\ud800"}]},
        {"model": "echo", "messages": [], "inputs": {"text": "\ud800"}},
        {"model": "echo", "messages": [], "stop": ["", "\ud800"]},
        {"model": "echo", "messages": [], "inputs": {"text": {"deep": "value"}}},
        {"model": "echo:99999999999", "messages": []},
        {"model": "../../etc/passwd", "messages": []},
        {"model": "echo", "messages": [], "temperature": float("nan")},
        {"model": "echo", "messages": [], "seed": 2**70},
    ],
)  # fmt: skip
def test_bodies_that_no_client_sends_are_refused(house: House, body: Any) -> None:
    status, _, told = house.ask("POST", "/v1/chat/completions", body)
    assert status in (400, 404)
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert "function-" not in f"{told['error']['param']} {told['error']['message']}", "that is pydantic's own"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "says"),
    [
        ("POST", "/v1/chat/completions", b'{"model"}', {}, "no JSON: Expecting ':' delimiter"),
        ("POST", "/v1/chat/completions", b"[]", {}, "Content-Type: application/json"),
        ("POST", "/v1/classify", b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type: "),
        ("GET", "/v1/chat/completions", None, {}, "this route takes POST"),
        ("GET", "/v1", None, {}, "/openapi.json"),
    ],
)
def test_a_refusal_tells_the_next_step(
    house: House, method: str, path: str, body: bytes | None, headers: dict[str, str], says: str
) -> None:
    _, _, told = house.ask(method, path, body, **headers)
    assert says in told["error"]["message"]


def test_raw_embeddings_are_refused(house: House) -> None:
    part: Any = {"type": "prompt_embeds", "data": "AAAA"}
    with refused(openai.BadRequestError) as caught:
        chat(house, messages=[{"role": "user", "content": [part]}])
    assert "raw embeddings" in str(caught.value)
    with refused(openai.BadRequestError, param="prompt_embeds"):
        chat(house, extra_body={"prompt_embeds": "AAAA"})
    with refused(openai.BadRequestError, param="prompt"):
        house.client().completions.create(model="echo", prompt=[1, 2, 3])
    with refused(openai.NotFoundError, "embeddings_not_configured"):
        house.client().embeddings.create(model=BACKBONE, input="x")


def test_schemas_and_tools_hold_the_answer(house: House) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    chat(house, response_format=form, stop="x")
    row = house.engine.seen[-1]
    assert row.schema == schema
    assert row.sampling.stop == ()
    with refused(openai.BadRequestError, param="response_format"):
        chat(house, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "odd"}}})
    chat(house, response_format={"type": "json_object"})
    assert house.engine.seen[-1].schema == {"type": "object"}

    tools = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema}}]
    said = [{"role": "user", "content": '{"tool": "look", "arguments": {"a": "b"}}'}]
    bare: dict[str, Any] = {"model": "raw", "tools": tools, "messages": said}
    house.table.put(Prompt("raw", "{{ text }}"))
    answer = chat(house, **bare, tool_choice="required").choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    assert answer.message.tool_calls[0].function.name == "look"
    assert json.loads(answer.message.tool_calls[0].function.arguments) == {"a": "b"}
    held = house.engine.seen[-1].schema
    assert held is not None
    assert held["properties"]["tool"] == {"const": "look"}

    chunks = list(chat(house, **bare, tool_choice={"type": "function", "function": {"name": "look"}}, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert json.loads(calls[0].function.arguments) == {"a": "b"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    bare["messages"] = [{"role": "user", "content": '{"tool": "reply", "arguments": {"text": "in words"}}'}]
    auto = chat(house, **bare).choices[0]
    assert (auto.message.content, auto.message.tool_calls, auto.finish_reason) == ("in words", None, "stop")
    held = house.engine.seen[-1].schema
    assert held is not None
    assert len(held["anyOf"]) == 2
    chat(house, **bare, tool_choice="none")
    assert house.engine.seen[-1].schema is None
    with refused(openai.BadRequestError, param="tool_choice"):
        chat(house, **bare, tool_choice={"type": "function", "function": {"name": "other"}})

    chat(house, BACKBONE, tools=tools, messages=[
        *USER,
        {"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"a": "b"}'}}]},
        {"role": "tool", "tool_call_id": "1", "content": "seen"},
    ])  # fmt: skip
    inputs: Any = house.engine.seen[-1].inputs["messages"]
    assert [message["role"] for message in inputs] == ["system", "user", "assistant", "user"]
    assert '"tool": "look"' in inputs[0]["content"]
    assert json.loads(inputs[2]["content"]) == {"tool": "look", "arguments": {"a": "b"}}


def test_many_clients_at_once_get_their_own_answers(house: House) -> None:
    client, wrong = house.client(), []

    def ask(i: int) -> None:
        model = ("echo", "echo@prod", "two")[i % 3]
        inputs = {"first": f"m{i}", "second": "x"} if model == "two" else {"text": f"m{i}"}
        answer = client.chat.completions.create(model=model, messages=[], extra_body={"inputs": inputs})
        if f"m{i}" not in (answer.choices[0].message.content or "").split():
            wrong.append(i)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(house.engine.seen) == 48
    house.wait(lambda: house.service.under_way == 0)


@pytest.mark.parametrize("message", [
    {"tool_calls": [{}] * 300_000}, {"content": [{"type": "text"}] * 50_000}, {"tool_calls": [{}] * 300},
])  # fmt: skip
def test_a_body_of_nothing_but_mistakes_is_not_told_all_of_them(message: dict[str, Any]) -> None:
    body = {"model": "mood", "messages": [{"role": "user", **message}] * (900 if len(str(message)) < 9_000 else 1)}
    with pytest.raises(ValidationError) as wrong:
        ChatBody.model_validate(body)
    assert wrong.value.error_count() < 5
