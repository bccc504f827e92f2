"""Routes for whoever runs a server: what is served, whether it takes requests, its figures, and prompts in memory."""

import contextlib
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from foreword.errors import ForewordError
from foreword.serve.http.bodies import PromptBody
from foreword.serve.http.refusals import Refusal
from foreword.serve.http.service import Service
from foreword.serve.log import write


def routes(service: Service) -> APIRouter:
    """/health, /ready, /metrics and /v1/models."""
    router = APIRouter()

    @router.get("/health", tags=["Operations"])
    async def health() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @router.get("/ready", tags=["Operations"], responses={503: {"description": "Starting or draining."}})
    async def ready() -> Response:
        """Whether it takes requests: not before it has read the table, and no more once it is told to stop."""
        state = "draining" if service.draining else "ready" if service.ready else "starting"
        if state == "ready" and service.engine.stats().broken:
            state = "broken"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @router.get("/metrics", tags=["Operations"])
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/v1/models", tags=["OpenAI"])
    async def models() -> dict[str, Any]:
        """The backbone, and every prompt by name, by alias and by version."""
        return {"object": "list", "data": _models(service)}

    @router.get("/v1/models/{model:path}", tags=["OpenAI"])
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        for listed in _models(service):
            if listed["id"] == model:
                return listed
        served = await service.prompts.get(model)  # an older version, which is served and not listed
        return _model(service, model, served.key)

    @router.post("/v1/responses", include_in_schema=False)
    async def responses() -> Response:
        raise Refusal(404, "this server speaks /v1/chat/completions, not /v1/responses", "not_found")

    return router


def admin_routes(service: Service) -> APIRouter:
    """Under /admin: list, load, pin, unpin, unload, refresh.

    All of them need a key of scope `admin`, once there are keys. Every change is by JSON body, never by a form.
    """
    router = APIRouter(prefix="/admin", tags=["Administration"])
    prompts = service.prompts

    def done(change: str, key: str) -> dict[str, Any]:
        write(change, prompt=key)
        return {"prompt": key, "change": change}

    @router.get("/prompts")
    async def list_prompts() -> dict[str, Any]:
        """Every version that a name or an alias stands for, or that is in memory."""
        with contextlib.suppress(ForewordError):  # `table` tells
            await prompts.look()
        return {"prompts": prompts.state(), "table": prompts.problem or "ok"}

    @router.post("/load")
    async def load(body: PromptBody) -> dict[str, Any]:
        """Bring a version into memory, and back into service where it was unloaded or refused."""
        return done("loaded", (await prompts.load(body.prompt)).key)

    @router.post("/pin")
    async def pin(body: PromptBody) -> dict[str, Any]:
        """Load a version and keep it in memory."""
        return done("pinned", (await prompts.pin(body.prompt)).key)

    @router.post("/unpin")
    async def unpin(body: PromptBody) -> dict[str, Any]:
        """Let it leave the memory when there is need."""
        return done("unpinned", await prompts.unpin(body.prompt))

    @router.post("/unload")
    async def unload(body: PromptBody) -> dict[str, Any]:
        """Take a version out of memory and of service; requests under way finish on it."""
        return done("unloaded", await prompts.unload(body.prompt))

    @router.post("/refresh")
    async def refresh() -> dict[str, Any]:
        """Look at the table now, without waiting for the next second."""
        return {"changed": await prompts.look()}

    return router


def _models(service: Service) -> list[dict[str, Any]]:
    models = [_model(service, service.backbone, None)]
    if service.embedder is not None:
        models.append(_model(service, service.embedder.name, None))
    models += [_model(service, name, served.key) for name, served in service.strategies.items()]
    stored = [(name, head) for name, head in service.prompts.names() if name not in service.strategies]
    return models + [_model(service, name, head.ref) for name, head in stored]


def _model(service: Service, name: str, version: str | None) -> dict[str, Any]:
    """`root` is the version that a prompt's name stands for now, `parent` the backbone that it runs on."""
    owner = {"id": name, "object": "model", "created": service.began, "owned_by": "foreword"}
    return {**owner, "root": version or name, "parent": service.backbone if version is not None else None}
