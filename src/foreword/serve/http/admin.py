"""Routes under /admin: which prompts are in memory and in service. Every change is by JSON body or not by a form.

All of them need a key of scope `admin`, once there are keys.
"""

import contextlib
from typing import Any

from fastapi import APIRouter

from foreword.errors import ForewordError
from foreword.serve.http.bodies import PromptBody
from foreword.serve.http.refusals import Refusal
from foreword.serve.http.service import Service
from foreword.serve.log import write


def routes(service: Service) -> APIRouter:
    """List, load, pin, unpin, unload, refresh."""
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
        try:
            changed = await prompts.look()
        except ForewordError as error:
            raise Refusal(503, str(error), "table_away", retry_after=5) from None
        return {"changed": changed}

    return router
