"""What every request passes first: host, drain, key, size, time; and the line about it in the log. Knows no routes.

It reads the whole body, within a limit and a deadline, before anything else sees the request: a client that sends
slowly holds nothing but its own connection.
"""

import asyncio
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foreword.serve.http.refusals import Refusal, refusal
from foreword.serve.http.service import Service
from foreword.serve.log import failure, write

OPEN = ("/health", "/ready")
"""Routes that whoever asks may use, while the server drains too."""
LOOPBACK = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", re.IGNORECASE)


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
                return
            await self._app(scope, receive, send)
            return
        if scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        notes: dict[str, Any] = {"id": secrets.token_hex(12)}
        scope["notes"] = notes
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", notes["id"].encode())]
            await send(message)

        self._service.under_way += 1
        try:
            self._admit(scope, notes)
            receive = await self._body(scope, receive)
            limits = self._service.limits
            async with asyncio.timeout(limits.seconds + limits.slack_seconds):
                await self._app(scope, receive, sending)
        except Exception as error:
            answer = refusal(error)
            if isinstance(error, TimeoutError):
                answer = Refusal(504, "the answer took longer than this server allows", "deadline")
            elif answer.status == 500:
                failure("request", error, **notes)
            if status:
                notes["cut"] = type(error).__name__
                raise _Cut from None  # the server closes the connection: the client sees that the answer is not whole
            response = answer.response()
            if answer.status in (408, 413):  # what is left of the body is not read
                response.headers["Connection"] = "close"
            await response(scope, receive, sending)
        finally:
            self._service.under_way -= 1
            if status >= 400:
                self._service.metrics.refused(notes.get("prompt"), status)
            route = getattr(scope.get("route"), "path", None)
            seconds = round(time.monotonic() - began, 4)
            write("request", **notes, method=scope["method"], route=route, status=status, seconds=seconds)

    def _admit(self, scope: Scope, notes: dict[str, Any]) -> None:
        """Check drain, host, key and scope. Raises Refusal."""
        service, headers = self._service, dict(scope["headers"])
        if service.draining:
            raise Refusal(503, "the server is shutting down", "shutting_down", retry_after=1)
        if service.keys is None:
            # Without keys only this machine may ask: not a page in its browser under a name that leads here.
            if not LOOPBACK.fullmatch(headers.get(b"host", b"")):
                raise Refusal(403, "without keys this server answers as localhost only", "wrong_host")
            return
        kind, _, shown = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        key = service.keys.find(shown.strip()) if kind.lower() == "bearer" else None
        if key is None:
            raise Refusal(401, "give a valid API key as 'Authorization: Bearer …'", "invalid_api_key")
        notes["key"] = key.name
        scope_needed = "admin" if scope["path"].startswith("/admin") else "use"
        if scope_needed not in key.scopes:
            raise Refusal(403, f"this needs a key of scope {scope_needed!r}", "wrong_scope")

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` again, with the body read. Raises Refusal."""
        most = self._service.limits.body_bytes
        too_large = Refusal(413, f"the body is larger than {most:,} bytes", "body_too_large")
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > most:
            raise too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._service.limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(499, "the client went away", "client_gone")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > most:
                        raise too_large
        except TimeoutError:
            raise Refusal(408, "the body came too slowly", "body_timeout") from None
        body: bytes | None = b"".join(parts)

        async def again() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        return again


class _Cut(Exception):  # noqa: N818
    """An answer that had begun cannot be ended as it should."""
