"""All that the routes of one server share. Knows no HTTP."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foreword.serve.embedder import Embedder
from foreword.serve.engines.seam import Engine
from foreword.serve.http.keys import Keys
from foreword.serve.http.limits import Limits
from foreword.serve.http.metrics import Metrics
from foreword.serve.prompts import Prompts

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


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
