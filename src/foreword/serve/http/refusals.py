"""What a client is told when it gets no answer, as OpenAI's clients read it. Knows HTTP and errors; knows no routes.

`Retry-After` is what an error says: `engines/queueing.py` decides it for a full queue, `names.py` for a table that is
away.
"""

import math
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from foreword.errors import ForewordError
from foreword.serve.engines.seam import (
    ClosedError,
    DeadlineError,
    ModelError,
    NoAnswerError,
    QueueFullError,
    SchemaError,
)
from foreword.serve.names import TableAwayError, UnknownModelError
from foreword.serve.prompts import PromptRefusedError


class Refusal(Exception):  # noqa: N818 - most of them are no errors of ours
    """An answer with this HTTP status and an error body."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        return {"error": {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Those that belong to the status."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return headers

    def response(self) -> JSONResponse:
        """As it goes over the wire."""
        return JSONResponse(self.body, self.status, self.headers)


def bad(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """400: the request itself is wrong."""
    return Refusal(400, message, code, param)


def unknown(message: str, code: str = "model_not_found") -> Refusal:
    """404: there is no such model, or none that can be used."""
    return Refusal(404, message, code, "model")


def refusal(error: Exception) -> Refusal:
    """What a client is told of `error`; of one that nobody foresaw, nothing but that it happened."""
    match error:
        case Refusal():
            return error
        case QueueFullError():
            return Refusal(429, str(error), "queue_full", retry_after=error.retry_after)
        case ClosedError():
            return Refusal(503, "the server is shutting down", "shutting_down", retry_after=1)
        case DeadlineError():
            return Refusal(504, "the answer took longer than this server allows; ask for fewer tokens", "deadline")
        case ModelError():
            return Refusal(500, "the model failed on this request; the server's log says more", "engine_error")
        case NoAnswerError():
            return Refusal(502, str(error), "no_answer")
        case UnknownModelError():
            return unknown(str(error))
        case PromptRefusedError():
            return unknown(str(error), "prompt_refused")
        case TableAwayError():
            return Refusal(503, str(error), "table_away", retry_after=error.retry_after)
        case SchemaError():
            return bad(str(error), "response_format")
        case ForewordError():
            return bad(str(error))
        case HTTPException():
            return _missing(error)
        case RequestValidationError():
            return _invalid(error)
    return Refusal(500, "the server failed; its log says more under this request's id", "internal_error")


def install(app: FastAPI) -> None:
    """Let every error become such an answer."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        response = refusal(error).response()
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in (Refusal, ForewordError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)


def _missing(error: HTTPException) -> Refusal:
    match error.status_code:
        case 404:
            return Refusal(404, "there is no such route; /openapi.json tells which there are", "not_found")
        case 405:
            takes = (error.headers or {}).get("Allow", "another method")
            return Refusal(405, f"this route takes {takes}", "method_not_allowed")
    return Refusal(error.status_code, str(error.detail))


def _invalid(error: RequestValidationError) -> Refusal:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        said = f"{first.get('ctx', {}).get('error', 'it cannot be read')}, at character {first['loc'][-1]}"
        return bad(f"the body is no JSON: {said}")
    if first["loc"] == ("body",) and first["type"] in ("model_attributes_type", "missing"):
        return bad("the body must be one JSON object, sent with 'Content-Type: application/json'")
    steps = [str(step) for step in first["loc"] if step != "body"]
    place = ".".join(step for step in steps if not step.startswith("function-"))  # the validator's own, no client's
    said = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        said = "there is no such field; see /openapi.json for those that there are"
    return bad(f"{place}: {said}" if place else said, param=place or None)


def _type(status: int) -> str:
    named = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")
