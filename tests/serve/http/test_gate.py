"""Who gets in, how much they may send, how long they may take, and what happens when they go away."""

import contextlib
import json
import logging
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from foreword.errors import ForewordError, UsageError
from foreword.serve.http import keys as files
from foreword.serve.http.keys import Keys
from foreword.serve.http.server import open_socket
from foreword.serve.http.service import Limits
from foreword.serve.log import NAME, JsonLines
from serving import House, Start, refused

ASK: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
SLOW: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "!slow " + "word " * 100}]}


def connect(house: House) -> socket.socket:
    host, port = house.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


def sent(body: dict[str, Any], path: str = "/v1/chat/completions") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def test_keys_open_what_their_scopes_say(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    use, admin = files.add_key(file, "app", ("use",)), files.add_key(file, "ops", ("admin",))
    assert file.stat().st_mode & 0o777 == 0o600
    assert use not in file.read_text()
    house = start(keys=Keys(file))
    assert house.client(use).chat.completions.create(**ASK).choices[0].message.content
    for wrong in ("fw-wrong", use[:-1], use + "x", ""):
        with refused(openai.AuthenticationError, "invalid_api_key"):
            house.client(wrong or "x").chat.completions.create(**ASK)
    with refused(openai.PermissionDeniedError, "wrong_scope"):
        house.client(admin).chat.completions.create(**ASK)
    assert house.ask("GET", "/admin/prompts", key=use)[0] == 403
    assert house.ask("GET", "/admin/prompts", key=admin)[0] == 200
    assert house.ask("GET", "/health")[0] == house.ask("GET", "/ready")[0] == 200
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
        status, headers, _ = house.ask("GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
    files.remove_key(file, "app")
    assert house.ask("GET", "/v1/models", key=use)[0] == 401
    logging.getLogger(NAME).propagate = True
    file.write_text("nonsense")  # half written by hand, say: what was valid stays so
    assert house.ask("GET", "/admin/prompts", key=admin)[0] == 200
    assert house.ask("GET", "/admin/prompts", key=admin)[0] == 200
    assert [record.message for record in caplog.records].count("keys unchanged") == 1


def test_keys_that_are_added_and_removed_at_the_same_moment_are_all_counted(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    with ThreadPoolExecutor(16) as pool:
        shown = list(pool.map(lambda i: files.add_key(path, f"key-{i}", ("use",)), range(32)))
        list(pool.map(lambda i: files.remove_key(path, f"key-{i}"), range(16)))
    keys = Keys(path)
    assert [bool(keys.find(key)) for key in shown] == [False] * 16 + [True] * 16


def test_a_file_that_is_none_of_keys_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with pytest.raises(ForewordError, match="no file of keys"):
        Keys(file)
    for text in ("", "[]", '{"keys": [{"name": "x", "sha256": "short"}]}', "[" * 100_000, '{"other": 1}'):
        file.write_text(text)
        with pytest.raises(ForewordError, match="no file of keys"):
            Keys(file)
    file.unlink()
    files.add_key(file, "a", ("use",))
    with pytest.raises(UsageError, match="already"):
        files.add_key(file, "a", ("use",))
    with pytest.raises(UsageError, match="key name"):
        files.add_key(file, "a b", ("use",))


def test_others_are_let_in_only_with_keys() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UsageError, match="keys"):
            open_socket(host, 0, None)
    with open_socket("127.0.0.1", 0, None) as taken, pytest.raises(ForewordError, match="cannot listen"):
        open_socket("127.0.0.1", taken.getsockname()[1], None)


def test_a_web_page_gets_nothing(house: House, start: Start) -> None:
    assert house.ask("GET", "/v1/models", Host="evil.example")[0] == 403  # a name of its own that leads to loopback
    for host in ("localhost:80@evil.example", "localhost.evil.example", "localhost:", "localhost:80:80", ""):
        assert house.ask("GET", "/v1/models", Host=host)[0] == 403
    for host in ("localhost", "LocalHost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"):
        assert house.ask("GET", "/v1/models", Host=host)[0] == 200
    page = {"Origin": "https://evil.example"}
    asked = house.ask("OPTIONS", "/v1/models", **page, **{"Access-Control-Request-Method": "POST"})
    plain = house.ask("GET", "/v1/models", **page)
    assert not {name for _, headers, _ in (asked, plain) for name in headers if name.startswith("access-control")}
    form = {"Content-Type": "text/plain"}  # what a page may send without asking first
    status, _, _ = house.ask("POST", "/admin/unload", {"prompt": "echo"}, **form)
    assert status == 400
    assert house.ask("POST", "/v1/chat/completions", ASK)[0] == 200

    friend = start(origins=("https://friend.example",))
    _, headers, _ = friend.ask("GET", "/v1/models", Origin="https://friend.example")
    assert headers["access-control-allow-origin"] == "https://friend.example"
    assert "access-control-allow-origin" not in friend.ask("GET", "/v1/models", Origin="https://evil.example")[1]


def test_bodies_are_bounded_in_size_and_time(start: Start) -> None:
    house = start(limits=replace(Limits(), body_bytes=2_000, body_seconds=0.4))
    big = {**ASK, "user": "x" * 2_000}
    status, headers, told = house.ask("POST", "/v1/chat/completions", big)
    assert (status, told["error"]["code"], headers["connection"]) == (413, "body_too_large", "close")
    with connect(house) as connection:  # without a length, piece by piece
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        connection.sendall(piece * 3)
        assert b"413" in connection.recv(1000).splitlines()[0]
    with connect(house) as connection:
        connection.sendall(sent(ASK)[:-5])
        began = time.monotonic()
        assert b"408" in connection.recv(1000).splitlines()[0]
        assert 0.3 < time.monotonic() - began < 3
        assert closed_within(connection, 3)


def test_heads_that_never_end_are_cut(start: Start) -> None:
    house = start(limits=replace(Limits(), header_seconds=0.4))
    silent, slow, again = connect(house), connect(house), connect(house)
    with silent, slow, again:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        again.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in again.recv(1000)
        again.sendall(b"GET /hea")
        for i in range(4):  # a byte now and then buys no time
            time.sleep(0.12)
            with contextlib.suppress(OSError):
                slow.sendall(f"X-{i}: 1\r\n".encode())
        assert all(closed_within(connection, 2) for connection in (silent, slow, again))
    assert house.ask("GET", "/health")[0] == 200
    with connect(house) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert closed_within(connection, 2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_goes_away_frees_its_rows(house: House, stream: bool, half: bool) -> None:
    connection = connect(house)
    connection.sendall(sent({**SLOW, "stream": stream, "n": 2}))
    house.wait(lambda: house.engine.running == 2)
    if half:
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    house.wait(lambda: house.engine.running == 0 and house.service.under_way == 0, 2)
    assert len(house.engine.freed) == 2
    connection.close()
    assert house.ask("POST", "/v1/chat/completions", ASK)[0] == 200


def test_an_answer_has_its_time_and_no_more(start: Start) -> None:
    house = start(limits=replace(Limits(), seconds=0.3, slack_seconds=0.2))
    status, _, told = house.ask("POST", "/v1/chat/completions", SLOW)
    assert (status, told["error"]["code"]) == (504, "deadline")
    house.wait(lambda: house.engine.running == 0)
    with connect(house) as connection:
        connection.sendall(sent({**SLOW, "stream": True}))
        assert closed_within(connection, 3)
    house.wait(lambda: house.engine.running == 0 and house.service.under_way == 0)


def test_the_log_has_no_contents(house: House, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger(NAME).propagate, logging.getLogger(NAME).level = True, logging.INFO
    caplog.set_level(logging.INFO, NAME)
    marked = "sesame-7731"
    for content in (marked, f"!bug {marked}", f"!error {marked}", f"!full {marked}"):
        house.ask("POST", "/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": content}]})
    house.ask("POST", "/v1/chat/completions", {**ASK, "inputs": {marked: marked}})
    house.ask("GET", f"/v1/models/{marked}")
    house.ask("GET", f"/{marked}?{marked}")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == NAME]
    assert marked not in json.dumps(lines)
    first = next(line for line in lines if line["event"] == "request")
    assert {"time", "id", "prompt", "prompt_tokens", "completion_tokens", "first_token_seconds", "status"} <= set(first)
    assert [line["error"] for line in lines if line["event"] == "engine"] == ["RuntimeError"]


def test_sigterm_drains_first(house: House) -> None:
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(house.ask("POST", "/v1/chat/completions", {
        **SLOW, "max_tokens": 20,
    })))  # fmt: skip
    asking.start()
    house.wait(lambda: house.engine.running == 1)
    house.server.handle_exit(signal.SIGTERM, None)
    house.wait(lambda: house.service.draining)
    assert house.ask("GET", "/ready")[0] == 503
    assert house.ask("GET", "/health")[0] == 200
    status, headers, told = house.ask("POST", "/v1/chat/completions", ASK)
    assert (status, told["error"]["code"], headers["retry-after"]) == (503, "shutting_down", "1")
    asking.join()
    assert answers[0][0] == 200
    assert answers[0][2]["usage"]["completion_tokens"] == 20
    house.thread.join(3)
    assert not house.thread.is_alive()


def test_a_drain_ends_with_the_grace_time(start: Start) -> None:
    house = start(grace=1.5)
    with connect(house) as connection:
        connection.sendall(sent({**SLOW, "stream": True}))
        house.wait(lambda: house.engine.running == 1)
        began = time.monotonic()
        house.server.handle_exit(signal.SIGTERM, None)
        house.thread.join(10)
        assert not house.thread.is_alive()
        assert time.monotonic() - began < 3
    assert len(house.engine.freed) == 1


def test_a_body_that_nobody_reads_holds_no_connection(start: Start, tmp_path: Path) -> None:
    """Refused before it was read, it could go on for ever, and without a key."""
    files.add_key(tmp_path / "keys.json", "app", ("use",))
    house = start(keys=Keys(tmp_path / "keys.json"), limits=replace(Limits(), header_seconds=0.4))
    for path in (b"/health", b"/v1/models"):
        with connect(house) as connection:
            connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\nx")
            assert connection.recv(1000).split()[1] in (b"401", b"405")
            for _ in range(12):
                time.sleep(0.1)
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
            assert closed_within(connection, 1)


def test_a_client_that_reads_nothing_is_cut_off(start: Start) -> None:
    house = start(limits=replace(Limits(), seconds=0.3, slack_seconds=0.2, read_seconds=0.5))
    connections = house.server.server_state.connections
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", int(house.url.rpartition(":")[2])))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 600)
        house.wait(lambda: connections and house.service.under_way)
        house.wait(lambda: not connections and not house.service.under_way, 8)
    assert house.ask("GET", "/health")[0] == 200
