"""A server from its parts: backbone, table, keys. The one place that chooses an engine."""

from collections.abc import Sequence

from fastapi import FastAPI

from foreword.backbone import Backbone
from foreword.serve import fit, spans
from foreword.serve.app import make_app
from foreword.serve.keys import Keys
from foreword.serve.limits import Limits
from foreword.serve.local import LocalEngine
from foreword.serve.metrics import Metrics
from foreword.serve.prompts import Prompts
from foreword.serve.service import Service
from foreword.table import PromptTable


def make(
    backbone: Backbone, table: PromptTable, keys: Keys | None, limits: Limits, origins: Sequence[str] = ()
) -> tuple[FastAPI, Service]:
    """The application, and what its routes share."""
    limits = limits.within(backbone.context)
    engine = LocalEngine(backbone)
    metrics = Metrics(engine.stats, limits.labels)
    prompts = Prompts(
        table, lambda prompt: fit.check(backbone, prompt), backbone.fingerprint, limits.prompt_bytes, metrics.forget
    )
    service = Service(
        engine, prompts, metrics, backbone.name, limits, keys, spans.tracer(),
        chats=bool(backbone.tokenizer.chat_template),
    )  # fmt: skip
    return make_app(service, origins), service
