"""A thread pool per model, for calls that are awaited; calls beyond its size wait. Knows no prompts."""

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from foreword.backbone import LanguageModel

R = TypeVar("R")

_POOLS: "weakref.WeakKeyDictionary[LanguageModel, ThreadPoolExecutor]" = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


async def in_thread(model: LanguageModel, work: Callable[[], R]) -> R:
    """Return what `work()` returns in one of the `model.parallel` threads of this model, in the caller's context."""
    with _LOCK:
        if model not in _POOLS:
            _POOLS[model] = ThreadPoolExecutor(model.parallel)
        pool = _POOLS[model]
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: context.run(work))
