"""A server over real sockets in this process, in front of an engine that answers from a script."""

import asyncio
import contextlib
import http.client
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from foreword.backbone.answer import Answer
from foreword.prompts import Input, Output, Prompt
from foreword.prompts.pieces import Text
from foreword.serve.engines.seam import Finished, QueueFullError, Request, Stats, Token
from foreword.serve.http.app import make_app
from foreword.serve.http.keys import Keys
from foreword.serve.http.metrics import Metrics
from foreword.serve.http.server import DrainingServer, address, build_server, open_socket
from foreword.serve.http.service import Limits, Service
from foreword.serve.prompts import Prompts
from foreword.table import PromptTable

BACKBONE = "tiny"


@dataclass
class Scripted:
    """Says what it was asked, word by word; a text that begins with `!` says what should happen instead."""

    seen: list[Request] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    """Ids of rows that were closed before their end."""
    running: int = 0

    async def generate(self, request: Request) -> AsyncIterator[Token | Finished]:
        self.seen.append(request)
        text = "".join(piece.text for piece in request.prompt.render(request.inputs) if isinstance(piece, Text))
        command = next((word for word in text.split() if word.startswith("!")), "")
        if command == "!full":
            raise QueueFullError(7, 2.5)
        if command == "!bug":
            raise RuntimeError(f"secret {text}")
        return self._say(request, text.split(), command)

    async def _say(self, request: Request, words: list[str], command: str) -> AsyncIterator[Token | Finished]:
        ended = False
        self.running += 1
        try:
            for i, word in enumerate(words[: request.sampling.max_tokens]):
                if command == "!slow":
                    await asyncio.sleep(0.05)
                top = tuple((f"t{k}", -1.0 - k) for k in range(request.logprobs))
                yield Token(word if i == 0 else f" {word}", (i,), -0.5 if request.logprobs else None, top)
            count = min(len(words), request.sampling.max_tokens)
            reason: Any = "stop" if count == len(words) else "length"
            if command in ("!deadline", "!error"):
                reason = command[1:]
            ended = True
            yield Finished(reason, len(words) + 2, 2, count, "secret" if reason == "error" else None)
        finally:
            self.running -= 1
            if not ended:
                self.freed.append(request.id)

    async def classify(self, request: Request) -> Answer:
        self.seen.append(request)
        text = "".join(piece.text for piece in request.prompt.render(request.inputs) if isinstance(piece, Text))
        if "!bug" in text:
            raise RuntimeError("secret")
        choices = request.prompt.output.choices
        assert choices is not None
        scores = tuple(-0.5 if choice in text else -2.0 for choice in choices)
        chosen = choices[scores.index(max(scores))]
        shares = tuple(math.exp(score) / sum(map(math.exp, scores)) for score in scores)
        return Answer(chosen, chosen, scores, len(text.split()), 0, shares)

    def stats(self) -> Stats:
        return Stats(self.running, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, self.running, 0, 0, 0)

    async def close(self, grace: float) -> None:
        pass


@dataclass
class House:
    """A server that runs."""

    engine: Scripted
    service: Service
    server: DrainingServer
    url: str
    table: PromptTable
    thread: threading.Thread
    clients: dict[str, openai.OpenAI] = field(default_factory=dict)

    def client(self, key: str = "none") -> openai.OpenAI:
        if key not in self.clients:
            self.clients[key] = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)
        return self.clients[key]

    def ask(
        self, method: str, path: str, body: object = None, key: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of a plain request."""
        where = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=10)
        headers |= {"Authorization": f"Bearer {key}"} if key is not None else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with contextlib.closing(where):
            where.request(method, path, data, {"Content-Type": "application/json"} | headers)
            reply = where.getresponse()
            text = reply.read().decode()
        found = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, found, json.loads(text) if "json" in found.get("content-type", "") else text

    def stop(self) -> None:
        for client in self.clients.values():
            client.close()
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive(), "the server did not end"

    def wait(self, met: Callable[[], object], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.01)


def fill(table: PromptTable) -> None:
    table.put(Prompt("echo", "You said: {{ text }}"), alias="prod")
    table.put(Prompt("echo", "You said now: {{ text }}"))
    table.put(Prompt("two", "{{ first }} and {{ second }}"))
    table.put(Prompt("mood", "Review: {{ text }}", output=Output(choices=("bad", "good"))), alias="prod")
    whole = {"messages": Input(type="array")}
    table.put(Prompt("history", "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}", whole))


def launch(
    place: Path,
    keys: Keys | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    origins: tuple[str, ...] = (),
    check: Callable[[Prompt], None] = lambda _: None,
    grace: float = 5.0,
    **more: Any,
) -> House:
    """A server whose table lies in the folder `place`; the rest is the application's."""
    table = PromptTable.open(place / "prompts.db")
    fill(table)
    engine = Scripted()
    metrics = Metrics(engine.stats, limits.labels)
    prompts = Prompts(table, check, "print", limits.prompt_bytes, metrics.forget)
    service = Service(engine, prompts, metrics, BACKBONE, limits, keys, **more)
    bound = open_socket("127.0.0.1", 0, None)
    server = build_server(make_app(service, origins), service, grace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    house = House(engine, service, server, address(bound), table, thread)
    house.wait(lambda: server.started or not thread.is_alive())
    return house


Start = Callable[..., House]


@contextlib.contextmanager
def refused(kind: type[openai.APIStatusError], code: str | None = None, param: str | None = None) -> Iterator[Any]:
    """The client raises `kind`, whose body is OpenAI's."""
    with pytest.raises(kind) as caught:
        yield caught
    body: Any = caught.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert code is None or body["code"] == code
    assert param is None or body["param"] == param
