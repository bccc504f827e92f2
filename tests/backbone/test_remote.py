"""The remote seam, driven by the real `openai` client against a server on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from foreword.backbone import RemoteBackbone, Sampling
from foreword.errors import ForewordError, ForewordWarning, UsageError
from foreword.prompts import Input, Output, Prompt

ASKED: list[dict[str, Any]] = []


class _Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ASKED.append(body | {"path": self.path})
        said = body["messages"][-1]["content"].rpartition("say: ")[2]
        reply = {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }  # fmt: skip
        status = 401 if said == "fail" else 200
        data = json.dumps({"error": {"message": "no key"}} if status == 401 else reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def remote() -> Iterator[RemoteBackbone]:
    ASKED.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        model = RemoteBackbone.parse(f"openai:http://127.0.0.1:{server.server_port}/v1#big-model")
        yield model
        model.close()
        server.shutdown()


def test_answers_come_back_in_order_with_usage_and_settings(remote: RemoteBackbone) -> None:
    prompt = Prompt("p", "{{ system() }}Be brief.{{ user() }}Please say: {{ text }}")
    rows = [{"text": f"answer {i}"} for i in range(20)]
    answers = remote.answer(prompt, rows, Sampling(max_tokens=5, temperature=0.5, stop=("\n",), seed=9))
    assert [answer.text for answer in answers] == [row["text"] for row in rows]
    assert (answers[0].prompt_tokens, answers[0].answer_tokens) == (11, 3)
    sent = next(body for body in ASKED if body["messages"][1]["content"].endswith("answer 3"))
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["stop"], sent["seed"]) == (
        "big-model", 5, 0.5, ["\n"], 9,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("Positive.", "positive"),
        ("It is negative", "negative"),
        ("positive or negative", "positive"),
        ("A positively negative day", "negative"),
        ("Negatives", None),
        ("neither negative nor positive", None),
        ("hm", None),
    ],
)
def test_a_choice_is_read_out_of_the_text_or_not_at_all(remote: RemoteBackbone, said: str, value: str | None) -> None:
    prompt = Prompt("p", "say: {{ text }}", None, Output(choices=("negative", "positive")))
    assert remote.answer(prompt, [{"text": said}])[0].value == value


def test_a_password_in_the_address_stays_out_of_the_name() -> None:
    model = RemoteBackbone.parse("openai:http://me:secret@127.0.0.1:1/v1?key=secret#m")
    assert model.name == "openai:http://127.0.0.1:1/v1#m"
    model.close()


def test_what_cannot_be_sent_or_is_refused_is_one_clear_line(remote: RemoteBackbone) -> None:
    with pytest.raises(ForewordError, match="hard prompts only"):
        remote.answer(Prompt("p", "{{ virtual(2) }}{{ text }}"), [{"text": "x"}])
    with pytest.raises(ForewordError, match="OPENAI_API_KEY"):
        remote.answer(Prompt("p", "say: {{ text }}"), [{"text": "fail"}])
    with pytest.raises(ForewordError, match="openai:https://host"):
        RemoteBackbone.parse("openai:somewhere")


def test_a_token_budget_is_held_at_four_characters_a_token(remote: RemoteBackbone) -> None:
    prompt = Prompt("p", "say: {{ text }}", {"text": Input(maxTokens=2, truncate="start")})
    with pytest.warns(ForewordWarning, match="its start is cut"):
        answers = remote.answer(prompt, [{"text": "0123456789abcdef"}, {"text": "short"}])
    assert [(answer.text, len(answer.cuts)) for answer in answers] == [("89abcdef", 1), ("short", 0)]
    # what is declared holds for what is given, not for what is left of it
    whole = prompt.replace(inputs={"text": Input(maxTokens=2, truncate="start", pattern="^0", minLength=16)})
    with pytest.warns(ForewordWarning):
        assert remote.answer(whole, [{"text": "0123456789abcdef"}])[0].text == "89abcdef"
    with pytest.raises(UsageError, match="is too short"):
        remote.answer(whole, [{"text": "0123"}])
