"""POST /v1/embeddings: texts as vectors, where an embedding model is configured."""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from foreword.serve.http.answers import unless_gone
from foreword.serve.http.bodies import Text
from foreword.serve.http.refusals import bad, unknown
from foreword.serve.http.service import Service

Words = Annotated[Text, Field(min_length=1)]


class EmbeddingsBody(BaseModel):
    """As OpenAI's clients send it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Text = Field(min_length=1, max_length=300)
    input: Words | Annotated[list[Words], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: Text | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, list) and value and not isinstance(value[0], str):
            raise ValueError("token ids are refused: send text")
        return value


def routes(service: Service) -> APIRouter:
    """The one route, which says so where there is no embedding model."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """One vector for each text of `input`, in order."""
        embedder = service.embedder
        if embedder is None:
            raise unknown("no embedding model is configured on this server", "embeddings_not_configured")
        if body.model != embedder.name:
            raise unknown(f"{body.model!r} gives no embeddings; the model that does is {embedder.name!r}")
        if body.dimensions not in (None, embedder.dimension):
            raise bad(f"{embedder.name!r} gives {embedder.dimension:,} dimensions, no others", "dimensions")
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors, tokens = await unless_gone(request, embedder.embed(texts))
        request.scope["notes"] |= {"embeddings": len(texts), "prompt_tokens": tokens}
        data = [
            {"object": "embedding", "index": i, "embedding": _written(vector, body.encoding_format)}
            for i, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": embedder.name, "usage": usage})

    return router


def _written(vector: np.ndarray, form: str) -> Any:
    return vector.tolist() if form == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()
