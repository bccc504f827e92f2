"""Serving: many prompts, hard and soft, in front of one frozen model, over HTTP or from Python."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreword.serve.engines.embedding_queue import EmbeddingQueue
    from foreword.serve.engines.local import LocalEngine
    from foreword.serve.engines.registry import ENGINES, MakeEngine, check_engine, make_engine
    from foreword.serve.engines.seam import Engine, Finished, Request, Stats, Token
    from foreword.serve.http.keys import Keys, add_key, read_keys, remove_key
    from foreword.serve.http.server import address, open_socket, run_server
    from foreword.serve.http.service import Limits, Service
    from foreword.serve.start import make_service
    from foreword.serve.strategies import serve_as_named

_FILES = {
    "ENGINES": "engines.registry",
    "EmbeddingQueue": "engines.embedding_queue",
    "Engine": "engines.seam",
    "Finished": "engines.seam",
    "Keys": "http.keys",
    "Limits": "http.service",
    "LocalEngine": "engines.local",
    "MakeEngine": "engines.registry",
    "Request": "engines.seam",
    "Service": "http.service",
    "Stats": "engines.seam",
    "Token": "engines.seam",
    "add_key": "http.keys",
    "address": "http.server",
    "check_engine": "engines.registry",
    "make_engine": "engines.registry",
    "make_service": "start",
    "open_socket": "http.server",
    "read_keys": "http.keys",
    "remove_key": "http.keys",
    "run_server": "http.server",
    "serve_as_named": "strategies",
}

__all__ = [
    "ENGINES",
    "EmbeddingQueue",
    "Engine",
    "Finished",
    "Keys",
    "Limits",
    "LocalEngine",
    "MakeEngine",
    "Request",
    "Service",
    "Stats",
    "Token",
    "add_key",
    "address",
    "check_engine",
    "make_engine",
    "make_service",
    "open_socket",
    "read_keys",
    "remove_key",
    "run_server",
    "serve_as_named",
]


def __getattr__(name: str) -> Any:
    """Open a file when it is first asked for: a process of vLLM's needs neither the server nor another engine."""
    if name not in _FILES:
        raise AttributeError(f"module 'foreword.serve' has no attribute {name!r}")
    return getattr(import_module(f"foreword.serve.{_FILES[name]}"), name)
