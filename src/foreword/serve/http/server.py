"""The process around the application: its socket, limits on slow clients, and how it ends. Knows no routes.

On SIGTERM or Ctrl-C the server first says that it is not ready, then finishes what it has accepted, then exits, all
within the grace time. A second signal ends it at once.
"""

import asyncio
import ipaddress
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from foreword.errors import ForewordError, UsageError
from foreword.serve.http.keys import Keys
from foreword.serve.http.service import Service
from foreword.serve.log import to_stderr, write

KEEP_ALIVE_SECONDS = 30
HEAD_BYTES = 32 * 1024
LINGER_SECONDS = 0.3
"""The time for which a server that has nothing to finish still answers that it is not ready."""
LAST_SECONDS = 1.0
"""The part of the grace time that is kept for cutting off what has not finished."""


def open_socket(host: str, port: int, keys: Keys | None) -> socket.socket:
    """A socket, opened before a model is loaded. Raises UsageError where others could reach a server without keys."""
    if keys is None and not _is_loopback(host):
        raise UsageError(
            f"{host!r} lets other machines in, and there are no keys: make one with 'foreword serve keys add NAME', "
            "and give its file with --keys"
        )
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(where[:2], family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise ForewordError(f"cannot listen on {host}:{port}: {error}; choose another --port or --host") from error


def address(bound: socket.socket) -> str:
    """The URL of a socket, such as `http://127.0.0.1:8000`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(app: FastAPI, service: Service, bound: socket.socket, grace: float) -> None:
    """Serve until a signal comes; returns when everything has been answered, or `grace` seconds are over."""
    to_stderr()
    build_server(app, service, grace).run(sockets=[bound])


def build_server(app: FastAPI, service: Service, grace: float) -> "DrainingServer":
    """The server around `app`, which `run` starts with its sockets."""
    limits = service.limits

    class Protocol(TimedConnection):
        head_seconds, read_seconds = limits.header_seconds, limits.read_seconds

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        limit_concurrency=limits.connections,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=1,
    )
    return DrainingServer(config, service, grace)


class DrainingServer(uvicorn.Server):
    """Says that it is not ready before it closes its door."""

    def __init__(self, config: uvicorn.Config, service: Service, grace: float) -> None:
        super().__init__(config)
        self._service, self._grace = service, grace
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; remembers the loop for signals."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            write("ready", backbone=self._service.backbone, address=[address(one) for one in sockets or ()])

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, as uvicorn does; looks at clients that do not read."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, TimedConnection):
                connection.check_reading()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - any signal is the same
        """The first signal drains, the next one ends."""
        if self._service.draining or self._loop is None or not self.started:
            self.force_exit = self.should_exit = True
            return
        self._service.draining = True
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._drain = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        service, end = self._service, time.monotonic() + self._grace
        write("draining", under_way=service.under_way, grace=self._grace)
        await asyncio.sleep(min(LINGER_SECONDS, self._grace))
        while service.under_way and time.monotonic() < end - LAST_SECONDS:
            await asyncio.sleep(0.02)
        left = max(0.0, end - LAST_SECONDS - time.monotonic())
        await service.engine.close(0.0 if service.under_way else left)
        write("stopped", cut_off=service.under_way)
        self.should_exit = True


class TimedConnection(H11Protocol):
    """A connection that is cut off unless its client does its part.

    While nothing is being answered, a head must be whole `head_seconds` after the connection, or what follows the last
    answer, has begun: the rest of a body that nobody reads included. Of what is ready for it, a client must take
    something every `read_seconds`.
    """

    head_seconds = 10.0
    read_seconds = 20.0
    _timer: asyncio.TimerHandle | None = None
    _unread = (0, 0.0)
    """Bytes that wait for the client, and since when they have been so many."""

    def check_reading(self) -> None:
        """Cut the client off if it has taken nothing for too long, a closed connection's last bytes included."""
        size, now = self.transport.get_write_buffer_size(), self.loop.time()
        if not size or size != self._unread[0]:
            self._unread = (size, now)
        elif now - self._unread[1] > self.read_seconds:
            self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the clock once a head is whole, and start it where a new one has begun."""
        super().data_received(data)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._clear_timer()

    def _set_timer(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self._clear_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self._close)

    def _close(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
