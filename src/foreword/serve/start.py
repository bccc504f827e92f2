"""A server from its parts: an engine, a table, keys. Knows no engine by name."""

from collections.abc import Sequence

from fastapi import FastAPI

from foreword.backbone import Backbone
from foreword.serve.engines.seam import Engine
from foreword.serve.http import spans
from foreword.serve.http.app import make_app
from foreword.serve.http.keys import Keys
from foreword.serve.http.metrics import Metrics
from foreword.serve.http.service import Limits, Service
from foreword.serve.prompts import Prompts
from foreword.serve.strategies import ServedStrategy, put_in_front
from foreword.table import PromptTable


def make_service(
    backbone: Backbone,
    engine: Engine,
    table: PromptTable,
    keys: Keys | None,
    limits: Limits,
    origins: Sequence[str] = (),
    strategies: Sequence[ServedStrategy] = (),
) -> tuple[FastAPI, Service]:
    """The application, and what its routes share; `engine` runs `backbone`.

    `strategies` are served under their own names beside the prompts of the table. Raises UsageError where one has the
    backbone's name, ForewordError where the model cannot run a prompt of a chain.
    """
    if strategies:
        engine = put_in_front(engine, strategies, backbone.name, limits.max_tokens)
    limits = limits.within(engine.context)
    metrics = Metrics(engine.stats, limits.labels)
    prompts = Prompts(table, engine.check, backbone.fingerprint, limits.prompt_bytes, metrics.forget)
    service = Service(
        engine, prompts, metrics, backbone.name, limits, keys, spans.tracer(),
        chats=bool(backbone.tokenizer.chat_template),
        strategies={one.item.name: one.served for one in strategies},
    )  # fmt: skip
    return make_app(service, origins), service
