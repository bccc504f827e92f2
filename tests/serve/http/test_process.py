"""`foreword serve` as its own process: keys from the command line, a kill, a restart, and a drain."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

import tiny
from foreword.prompts import Prompt
from foreword.prompts.soft import SoftTokens
from foreword.serve.http import keys as files
from foreword.table import PromptTable

FOREWORD = str(Path(sys.executable).with_name("foreword"))
Serve = Callable[..., "Process"]


class Process:
    """A server process, and where it answers."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._log = (folder / "log").open("w+")
        began = time.monotonic()
        self.popen = subprocess.Popen([FOREWORD, "serve", "--port", "0", *options], stderr=self._log, cwd=folder)
        while not (ready := [line for line in self.lines() if line.get("event") == "ready"]):
            assert self.popen.poll() is None, (folder / "log").read_text()
            assert time.monotonic() - began < 60
            time.sleep(0.02)
        self.seconds = time.monotonic() - began
        self.url = ready[0]["address"][0]

    def lines(self) -> list[dict[str, Any]]:
        text = Path(self._log.name).read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait()
        self._log.close()


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    running: list[Process] = []

    def serve(*options: str) -> Process:
        running.append(Process(tmp_path, *options))
        return running[-1]

    yield serve
    for process in running:
        process.end()


def ask(client: openai.OpenAI, model: str, text: str, **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def test_a_server_with_keys_on_a_tiny_model(serve: Serve, tmp_path: Path) -> None:
    backbone = tiny.backbone()
    backbone.model.save_pretrained(tmp_path / "tiny")
    backbone.tokenizer.save_pretrained(tmp_path / "tiny")
    vectors = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    soft = SoftTokens({"embeddings": vectors}, "tiny", backbone.fingerprint, "prompt-tuning", "run", 96)
    prompts = [
        Prompt("hard", "Review: {{ text }}\nIt was"),
        Prompt("soft", "{{ virtual(3) }}{{ text }}", soft=soft),
        Prompt("chat", "{{ user() }}{{ text }}"),
    ]
    for prompt in prompts:
        PromptTable.open().put(prompt, alias="prod")
    key = files.add_key(tmp_path / "keys.json", "me", ("use", "admin"))
    (tmp_path / "code.py").write_text(
        "import time\n\n\ndef shout(text: str) -> str:\n    return text.upper()\n\n\n"
        "def hang(text: str) -> str:\n    time.sleep(600)\n    return text\n"
    )
    strategy = ("--strategy", "code.py:shout", "--strategy", "code.py:hang")
    server = serve("--backbone", "tiny", "--dtype", "float32", "--keys", "keys.json", "--grace", "5", *strategy)
    with server.client(key) as client:
        assert ask(client, "shout", "a quiet film").choices[0].message.content == "A QUIET FILM"
        for prompt in prompts:
            answer = ask(client, f"{prompt.name}@prod", "a quiet film", max_tokens=8)
            alone = backbone.answer(prompt, [{"text": "a quiet film"}], _sampling(8))[0]
            assert answer.choices[0].message.content.strip() == alone.text.strip()
            assert answer.usage.prompt_tokens == alone.prompt_tokens
        with pytest.raises(openai.BadRequestError):
            ask(client, "hard", "word " * 400)
    with server.client() as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with server.client(key) as client:
        told: list[str | None] = []

        def wait() -> None:
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, "hang", "a quiet film")
            told.append(caught.value.code)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.5)
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(10) == 0, "code that never returns does not keep it"
        waiting.join()
    assert told == ["shutting_down"]
    events = [line["event"] for line in server.lines() if line["event"] != "request"]
    assert events[-2:] == ["draining", "stopped"]


def _sampling(max_tokens: int) -> Any:
    from foreword.backbone import Sampling

    return Sampling(max_tokens)


@pytest.mark.slow
def test_kill_restart_and_drain_on_the_real_backbone(serve: Serve) -> None:
    table = PromptTable.open()
    table.put(Prompt("echo", "{{ user() }}Write a long story about: {{ text }}"), alias="prod")
    server = serve()
    assert server.seconds < 10 or os.getloadavg()[0] > 2, server.seconds
    outcomes: list[str] = []

    def work(client: openai.OpenAI) -> None:
        try:
            ask(client, "echo", "apple", max_tokens=120)
            outcomes.append("answered")
        except openai.APIConnectionError:
            outcomes.append("cut")
        except openai.APIStatusError as error:
            outcomes.append(f"status {error.status_code}")

    def under_load(then: Callable[[], object]) -> None:
        outcomes.clear()
        with server.client() as client:
            threads = [threading.Thread(target=work, args=(client,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            while 'requests_in_flight{prompt="echo:1"} 3.0' not in client.with_options(base_url=server.url).get(
                "/metrics", cast_to=str
            ):
                time.sleep(0.05)
            then()
            for thread in threads:
                thread.join()

    under_load(server.popen.kill)
    assert outcomes == ["cut"] * 3
    assert [one.ref for one in table.list("echo")] == ["echo:1"]

    port = server.url.rpartition(":")[2]
    server = serve("--port", port, "--grace", "60")
    with server.client() as client:
        told = ask(client, "echo@prod", "apple", max_tokens=16)
        streamed = ask(client, "echo@prod", "apple", max_tokens=16, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == told.choices[0].message.content
    under_load(lambda: server.popen.send_signal(signal.SIGTERM))
    assert outcomes == ["answered"] * 3
    assert server.popen.wait(60) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), 2).close()
