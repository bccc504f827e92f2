"""All that the routes of one server share. Knows no HTTP."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from foreword.serve.embedder import Embedder
from foreword.serve.engine import Engine, TokenMask
from foreword.serve.keys import Keys
from foreword.serve.limits import Limits
from foreword.serve.metrics import Metrics
from foreword.serve.prompts import Prompts

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class Masks(Protocol):
    """Makes what holds one answer to a JSON Schema. Raises ForewordError for a schema that it cannot hold."""

    def __call__(self, schema: Mapping[str, Any]) -> TokenMask: ...


@dataclass
class Service:
    """One server: an engine, the prompts in front of it, and who may use them how much."""

    engine: Engine
    prompts: Prompts
    metrics: Metrics
    backbone: str
    """Its name, which is a model's name too."""
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    keys: Keys | None = None
    """None: everyone who reaches the server may do everything."""
    masks: Masks | None = None
    tracer: "Tracer | None" = None
    chats: bool = True
    """Whether the backbone's tokenizer has a chat template."""
    embedder: Embedder | None = None
    began: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""
    ready: bool = False
    draining: bool = False
    under_way: int = 0
    """Requests that have been let in and not answered to the end."""
