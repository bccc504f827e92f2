"""A server from its parts: engine, table, keys. The one place that chooses an engine."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from foreword.backbone import Backbone
from foreword.backbone.load import BUILT_IN, built_in_folder
from foreword.errors import ForewordError
from foreword.listen import SILENT, Listener
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import Engine
from foreword.serve.http import spans
from foreword.serve.http.app import make_app
from foreword.serve.http.keys import Keys
from foreword.serve.http.metrics import Metrics
from foreword.serve.http.service import Limits, Service
from foreword.serve.prompts import Prompts
from foreword.table import PromptTable


def make(
    backbone: Backbone,
    table: PromptTable,
    keys: Keys | None,
    limits: Limits,
    origins: Sequence[str] = (),
    engine: Engine | None = None,
) -> tuple[FastAPI, Service]:
    """The application, and what its routes share; `engine` runs `backbone`, by default the local one."""
    engine = engine or LocalEngine(backbone)
    limits = limits.within(engine.context)
    metrics = Metrics(engine.stats, limits.labels)
    prompts = Prompts(table, engine.check, backbone.fingerprint, limits.prompt_bytes, metrics.forget)
    service = Service(
        engine, prompts, metrics, backbone.name, limits, keys, spans.tracer(),
        chats=bool(backbone.tokenizer.chat_template),
    )  # fmt: skip
    return make_app(service, origins), service


def on_vllm(name: str, dtype: str, options: Mapping[str, Any], listener: Listener = SILENT) -> tuple[Backbone, Engine]:
    """The part of a backbone that this process needs, and vLLM with the rest. Raises ForewordError without vLLM."""
    try:
        from foreword.serve.engines.vllm.vllm_engine import VllmEngine
    except ImportError as error:
        raise ForewordError(
            f"--engine vllm needs vLLM 0.32 in an environment of its own ({error}): "
            "python -m venv vllm && vllm/bin/pip install 'foreword[vllm]', and vllm/bin/foreword serve --engine vllm; "
            "for a machine without a GPU see docs/how-to/gpu.md"
        ) from error
    backbone = Backbone.load(name, dtype, listener, layers=False)
    source = str(built_in_folder(name)) if name in BUILT_IN else name
    return backbone, VllmEngine(backbone, source, options=options)
