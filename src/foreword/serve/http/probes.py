"""GET routes: what is served, whether the server lives and takes requests, and its figures."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from foreword.serve.http.refusals import Refusal
from foreword.serve.http.service import Service


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
        for found in _models(service):
            if found["id"] == model:
                return found
        served = await service.prompts.get(model)  # an older version, which is served and not listed
        return _model(service, model, served.key)

    @router.post("/v1/responses", include_in_schema=False)
    async def responses() -> Response:
        raise Refusal(404, "this server speaks /v1/chat/completions, not /v1/responses", "not_found")

    return router


def _models(service: Service) -> list[dict[str, Any]]:
    found = [_model(service, service.backbone, None)]
    if service.embedder is not None:
        found.append(_model(service, service.embedder.name, None))
    return found + [_model(service, name, head.ref) for name, head in service.prompts.names()]


def _model(service: Service, name: str, version: str | None) -> dict[str, Any]:
    """`root` is the version that a prompt's name stands for now, `parent` the backbone that it runs on."""
    owner = {"id": name, "object": "model", "created": service.began, "owned_by": "foreword"}
    return {**owner, "root": version or name, "parent": service.backbone if version is not None else None}
