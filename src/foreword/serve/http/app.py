"""The HTTP application: routes, the gate before them, and the look at the table every second. Opens no socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from foreword import __version__
from foreword.errors import ForewordError
from foreword.serve.http import refusals
from foreword.serve.http.gate import Gate
from foreword.serve.http.routes import chat, classify, completions, embeddings, operations
from foreword.serve.http.service import Service
from foreword.serve.log import write
from foreword.serve.names import TABLE_RETRY_SECONDS
from foreword.serve.prompts import POLL_SECONDS


def make_app(service: Service, origins: Sequence[str] = ()) -> FastAPI:
    """All routes of `service`; web pages of `origins` may call them, and no others."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await service.prompts.look()
        service.ready = True
        watching = asyncio.create_task(_watch(service))
        try:
            yield
        finally:
            service.ready = False
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            service.prompts.close()

    before = [Middleware(Gate, service=service)]
    if origins:
        headers = ["Authorization", "Content-Type"]
        cors = Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=headers)
        before.insert(0, cors)
    app = FastAPI(
        title="Foreword",
        version=__version__,
        description="Hard and soft prompts in front of one frozen model, as OpenAI's clients speak it.",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        middleware=before,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="An API key, where the server has keys."))],
    )
    refusals.install(app)
    for room in (chat, completions, classify, embeddings, operations):
        app.include_router(room.routes(service))
    app.include_router(operations.admin_routes(service))
    return app


async def _watch(service: Service) -> None:
    """Follow the table: what has moved counts for requests that come after. A table that is away is told once."""
    away = False
    loop = asyncio.get_running_loop()
    warmed = -TABLE_RETRY_SECONDS
    changed = True
    while True:
        try:
            if changed or loop.time() - warmed > TABLE_RETRY_SECONDS:
                warmed = loop.time()
                await service.prompts.warm()
            await asyncio.sleep(POLL_SECONDS)
            changed = await service.prompts.look()
            if away:
                write("table is back")
            away = False
        except ForewordError as error:
            if not away:
                write("table is away", problem=str(error))
            away, changed = True, False
