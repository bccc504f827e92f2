"""All that the routes of one server share, and what one request may cost. Knows no HTTP."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from foreword.serve.engines.embedding_queue import EmbeddingQueue
from foreword.serve.engines.seam import Engine
from foreword.serve.http.keys import Keys
from foreword.serve.http.metrics import Metrics
from foreword.serve.prompts import Prompts, Served

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; see `foreword serve --help` for those that can be set there."""

    body_bytes: int = 1024 * 1024
    """The largest body of a request."""
    max_tokens: int = 1024
    """The most tokens that a request may ask for."""
    default_tokens: int = 256
    """The most tokens of an answer where a request does not say."""
    json_tokens: int = 512
    """The same for JSON by a schema, which would be of no use if it were cut off."""
    seconds: float = 120.0
    """The time for an answer, from its request to its last token."""
    header_seconds: float = 10.0
    """The time for a client to send the head of a request."""
    body_seconds: float = 20.0
    """The time for a client to send the rest of it."""
    read_seconds: float = 20.0
    """The time for a client to read something of what waits for it."""
    slack_seconds: float = 5.0
    """The time beyond `seconds` for the last bytes to reach a slow client."""
    connections: int = 512
    """The most connections that are open at once."""
    rows: int = 16
    """The most answers in one request: `n`, times the prompts of a completion."""
    prompt_bytes: int = 256 * 1024**2
    """The memory for prompts, in bytes; those that are pinned stay beyond it."""
    labels: int = 200
    """The most prompts that metrics tell apart; further ones count together as `other`."""

    def within(self, context: int) -> "Limits":
        """These limits for a model of `context` tokens: what is only a default leaves most of them to the prompt."""
        share = max(1, context // 4)
        tokens, json = min(self.default_tokens, share), min(self.json_tokens, share)
        return replace(self, default_tokens=tokens, json_tokens=json)


@dataclass
class Service:
    """One server: an engine, the prompts in front of it, and who may use them how much."""

    engine: Engine
    prompts: Prompts
    metrics: Metrics
    backbone: str
    """The backbone's name, which is a model's name too."""
    limits: Limits = Limits()
    keys: Keys | None = None
    """None: everyone who reaches the server may do everything."""
    tracer: "Tracer | None" = None
    chats: bool = True
    """Whether the backbone's tokenizer has a chat template."""
    embedder: EmbeddingQueue | None = None
    strategies: Mapping[str, Served] = field(default_factory=dict)
    """Chains and functions by their served names."""
    began: int = field(default_factory=lambda: int(time.time()))
    """When the server began, in seconds since 1970."""
    ready: bool = False
    draining: bool = False
    under_way: int = 0
    """The requests that have been let in and not answered to the end."""
