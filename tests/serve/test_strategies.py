"""Chains and functions under served names: the real engine, a tiny model, OpenAI's client over a socket."""

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

import tiny
from foreword.backbone import Backbone, Sampling
from foreword.errors import UsageError
from foreword.flows import Chain, Function, Program, Result, Usage
from foreword.prompts import Output, Prompt
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import QueueFullError, Request
from foreword.serve.http.server import address, build_server, open_socket
from foreword.serve.http.service import Limits
from foreword.serve.start import make_service
from foreword.serve.strategies import ServedStrategy, StrategyEngine, serve_as_named
from foreword.serve.strategy_calls import THREADS
from foreword.table import PromptTable
from serving import refused

SCHEMA = {
    "type": "object",
    "properties": {"say": {"type": "string", "maxLength": 5}},
    "required": ["say"],
}
TRIAGE = """inputs: [text]
steps:
  - {call: fields, as: fields, with: {text: "{{ text }}"}}
  - {call: team, as: team, with: {text: "{{ fields.say }} of {{ text }}"}}
output: team
"""
USER = [{"role": "user", "content": "a quiet film"}]
asleep = threading.Event()


def shout(text: str, mark: str = "!") -> str:
    """Louder."""
    return text.upper() + mark


def fails(text: str) -> str:
    raise KeyError(f"secret {text}")


def refuses(text: str) -> str:
    raise UsageError(f"secret {text}")


def objects(text: str) -> Result[str]:
    return Result(text, None, Usage(), 0.0, problem=f"secret {text}")


def numbers(text: str) -> Any:
    return Result(len(text), None, Usage(), 0.0)  # type: ignore[arg-type]


def sleeps(text: str) -> str:
    asleep.wait(5)
    return text


class House:
    """A server over the local engine, and what it stands on."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.model: Backbone = tiny.backbone()
        self.table = PromptTable.open(folder / "table.db")
        self.table.put(Prompt("fields", "Read: {{ text }}\nFields:", output=Output(schema=SCHEMA)))
        self.table.put(Prompt("team", "{{ text }}\nTeam:", output=Output(choices=("billing", "technical"))))
        self.table.put(Prompt("write", "Say: {{ text }}\n"))
        (folder / "triage.yaml").write_text(TRIAGE)
        (folder / "written.yaml").write_text(
            'inputs: [text]\nsteps: [{call: write, as: w, with: {text: "{{ text }}"}}]\noutput: w\n'
        )
        self.triage, written = (Chain.load(folder / f"{name}.yaml", self.table) for name in ("triage", "written"))
        items = [self.triage, written, *(Function.of(one) for one in (shout, fails, refuses, objects, numbers, sleeps))]
        engine, served = LocalEngine(self.model), serve_as_named(items, self.table)
        app, self.service = make_service(self.model, engine, self.table, None, limits, strategies=served)
        bound = open_socket("127.0.0.1", 0, None)
        self.url = address(bound)
        self._server = build_server(app, self.service, 1.0)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]})
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def ask(self, path: str, body: object) -> tuple[int, Any]:
        where = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=10)
        with contextlib.closing(where):
            where.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            reply = where.getresponse()
            return reply.status, json.loads(reply.read())

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    found = House(tmp_path_factory.mktemp("house"), Limits(seconds=1.5))
    yield found
    asleep.set()
    found.stop()


def test_a_served_chain_answers_as_the_same_chain_does_at_home(house: House) -> None:
    told = house.client.chat.completions.create(model="triage", messages=USER, max_tokens=60)  # type: ignore[arg-type]
    at_home = Program(house.triage, house.model, sampling=Sampling(60))(text="a quiet film")
    assert told.choices[0].message.content == at_home.value
    assert told.choices[0].finish_reason == "stop"
    assert told.model == "triage"
    assert told.usage is not None
    assert told.usage.prompt_tokens == at_home.usage.prompt_tokens
    assert told.usage.completion_tokens == at_home.usage.completion_tokens
    status, body = house.ask("/v1/classify", {"model": "triage", "input": "a quiet film"})
    assert (status, body["value"]) == (200, at_home.value)
    shares = {choice["text"]: choice["probability"] for choice in body["choices"]}
    assert shares == pytest.approx(dict(at_home.probabilities or {}), abs=1e-4)


def test_a_chain_that_writes_comes_in_a_stream_too(house: House) -> None:
    at_home = Program(Prompt("write", "Say: {{ text }}\n"), house.model, sampling=Sampling(7))(text="a quiet film")
    chunks = list(
        house.client.chat.completions.create(
            model="written",
            messages=USER,
            max_tokens=7,
            stream=True,
            stream_options={"include_usage": True},  # type: ignore[arg-type]
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == at_home.text
    assert chunks[-1].usage.prompt_tokens == at_home.usage.prompt_tokens
    whole = house.client.completions.create(model="written", prompt=["a quiet film", "silly"], max_tokens=7, n=2)
    assert [choice.text for choice in whole.choices[:2]] == [at_home.text] * 2
    assert len(whole.choices) == 4


def test_many_rows_of_chains_and_prompts_at_once_are_not_mixed_up(house: House) -> None:
    texts = [f"{word} film {i}" for i in range(6) for word in ("quiet", "silly")]
    expected = {text: Program(house.triage, house.model)(text=text).text for text in texts}

    async def main() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
            asked = [
                client.chat.completions.create(model="triage", messages=[{"role": "user", "content": text}])
                for text in texts
            ]
            others = [client.completions.create(model="write", prompt=text, max_tokens=4) for text in texts]
            found, _ = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*others))
            return [one.choices[0].message.content for one in found]

    assert asyncio.run(main()) == [expected[text] for text in texts]


def test_a_function_is_served_with_its_inputs(house: House) -> None:
    told = house.client.chat.completions.create(model="shout", messages=USER)  # type: ignore[arg-type]
    assert told.choices[0].message.content == "A QUIET FILM!"
    status, body = house.ask("/v1/chat/completions", {"model": "shout", "messages": USER, "inputs": {"mark": "?"}})
    assert (status, body["choices"][0]["message"]["content"]) == (200, "A QUIET FILM?")
    names = [model.id for model in house.client.models.list()]
    assert {"triage", "written", "shout", "team"} <= set(names)


def test_what_cannot_be_asked_of_a_strategy_is_told(house: House) -> None:
    chat = house.client.chat.completions.create
    with refused(openai.BadRequestError, param="logprobs"):
        chat(model="triage", messages=USER, logprobs=True)  # type: ignore[arg-type]
    with refused(openai.BadRequestError, param="response_format"):
        chat(model="shout", messages=USER, response_format={"type": "json_object"})  # type: ignore[arg-type]
    with refused(openai.BadRequestError, param="inputs"):
        chat(model="triage", messages=USER, extra_body={"inputs": {"title": "x"}})  # type: ignore[arg-type]
    with refused(openai.NotFoundError, "model_not_found"):
        chat(model="triage:9", messages=USER)  # type: ignore[arg-type]
    status, body = house.ask("/v1/classify", {"model": "shout", "input": "x"})
    assert (status, body["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("model", ["fails", "refuses", "objects", "numbers"])
def test_code_that_fails_tells_the_client_nothing_of_it(house: House, model: str) -> None:
    with refused(openai.InternalServerError, "engine_error") as caught:
        house.client.chat.completions.create(model=model, messages=USER)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_the_log_says_where_code_failed_and_nothing_of_what_it_said(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    with refused(openai.InternalServerError, "engine_error"):
        house.client.chat.completions.create(model="fails", messages=USER)  # type: ignore[arg-type]
    [fields] = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("error") == "KeyError"]
    assert any("test_strategies.py" in where and "fails" in where for where in fields["where"])
    assert "secret" not in str(fields)


def test_lengths_are_told_and_kept_to(house: House) -> None:
    chat = house.client.chat.completions.create
    cut = chat(model="written", messages=USER, max_tokens=3)  # type: ignore[arg-type]
    assert cut.usage is not None
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)
    free = chat(model="written", messages=USER)  # type: ignore[arg-type]
    assert free.usage is not None
    assert free.usage.completion_tokens <= house.service.limits.max_tokens
    with refused(openai.BadRequestError, param="inputs"):
        chat(model="shout", messages=[], extra_body={"inputs": {"text": 5}})


def test_code_that_hangs_holds_up_nobody_else(house: House) -> None:
    late = {"model": "sleeps", "messages": USER}
    with ThreadPoolExecutor(THREADS) as pool:
        asked = [
            pool.submit(house.ask, "/v1/chat/completions", {"model": "sleeps", "messages": USER})
            for _ in range(THREADS)
        ]
        assert [one.result()[0] for one in asked] == [504] * THREADS
    began = time.monotonic()
    told = house.client.chat.completions.create(model="written", messages=USER, max_tokens=2)  # type: ignore[arg-type]
    assert told.choices[0].message.content
    assert time.monotonic() - began < 1.5
    status, body = house.ask("/v1/chat/completions", late)
    assert (status, body["error"]["code"]) == (504, "deadline"), "its own threads are taken until they end"
    asleep.set()


def test_a_queue_that_is_full_inside_a_chain_is_told_as_such(house: House) -> None:
    class Full:
        context = 256

        def check(self, prompt: Prompt) -> None: ...

        async def generate(self, request: Request) -> Any:  # noqa: ARG002
            raise QueueFullError(7, 2.5)

    served = house.service.strategies["triage"]
    [one] = [ServedStrategy(house.triage, served)]
    engine = StrategyEngine(Full(), [one], "other", 64)  # type: ignore[arg-type]

    async def main() -> None:
        request = Request("full", served.prompt, served.key, {"text": "film"}, Sampling(5))
        async for _ in await engine.generate(request):
            pass

    with pytest.raises(QueueFullError, match=r"chain 'triage', step 'fields': .* try again in 2 s") as caught:
        asyncio.run(main())
    assert caught.value.retry_after == 2.5


def test_a_step_without_an_answer_is_named(house: House) -> None:
    with refused(openai.InternalServerError, "no_answer") as caught:
        house.client.chat.completions.create(model="triage", messages=USER, max_tokens=1)  # type: ignore[arg-type]
    assert caught.value.status_code == 502
    assert "chain 'triage', step 'fields'" in str(caught.value)
    assert "cut off after 1 tokens" in str(caught.value)


def test_a_client_that_goes_away_frees_the_engine(house: House) -> None:
    model, engine = house.model, house.service.engine
    assert isinstance(engine, StrategyEngine)
    served = house.service.strategies["triage"]

    async def main() -> int:
        request = Request("gone", served.prompt, served.key, {"text": "film"}, Sampling(60))
        waits = asyncio.ensure_future(_all(await engine.generate(request)))
        await asyncio.sleep(0.01)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        lane = engine._lanes[served.key]
        for _ in range(200):  # its thread ends at its next step
            if lane.taken == 0:
                break
            await asyncio.sleep(0.02)
        return lane.taken

    async def _all(pieces: Any) -> list[Any]:
        return [piece async for piece in pieces]

    assert model.name == "tiny-llama"
    assert asyncio.run(main()) == 0


def test_names_that_cannot_be_served_are_refused_at_the_start(house: House) -> None:
    def Loud(text: str) -> str:  # noqa: N802
        return text

    for items, message in (
        ([Function.of(shout, "team")], "'team' is a prompt of the table already"),
        ([Function.of(Loud)], "'Loud' cannot be a served name"),
        ([Function.of(shout), Function.of(shout)], "two strategies are called 'shout'"),
    ):
        with pytest.raises(UsageError, match=message):
            serve_as_named(items, house.table)
    [served] = serve_as_named([Function.of(shout, house.model.name)], house.table)
    with pytest.raises(UsageError, match="'tiny-llama' is the backbone's own name"):
        StrategyEngine(house.service.engine, [served], house.model.name, 64)
