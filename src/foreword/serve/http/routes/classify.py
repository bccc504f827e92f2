"""POST /v1/classify: the choices of a prompt with their probabilities, its shared prefix and the text computed once."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from foreword.backbone import Answer
from foreword.prompts import Prompt
from foreword.serve.http import calls
from foreword.serve.http.answers import head, unless_gone, usage
from foreword.serve.http.bodies import ClassifyBody
from foreword.serve.http.running import RunningCall
from foreword.serve.http.service import Service


def routes(service: Service) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["Foreword"])

    @router.post("/v1/classify")
    async def classify(body: ClassifyBody, request: Request) -> Response:
        """`value` is the choice that the prompt gives; `choices` holds all, in the prompt's order."""
        notes = request.scope["notes"]
        call = await calls.classify(service, body, notes["id"])
        async with RunningCall(service, "classify", body.model, call.rows, notes) as running:
            answer = await unless_gone(request, running.classify())
        choices = _choices(call.served.prompt, answer)
        start = {**head("classify", call, body.model), "object": "classification"}
        return JSONResponse({**start, "value": answer.value, "choices": choices, "usage": usage(running)})

    return router


def _choices(prompt: Prompt, answer: Answer) -> list[dict[str, Any]]:
    choices = prompt.output.choices or ()
    columns = (choices, answer.probabilities or (), answer.log_likelihoods or [None] * len(choices))
    return [{"text": text, "probability": share, "logprob": value} for text, share, value in zip(*columns, strict=True)]
