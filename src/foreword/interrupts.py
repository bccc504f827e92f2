"""Ctrl-C, held back until work can stop without losing anything. Knows signals; knows no work."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until a step is whole; yields a function that tells whether it was pressed."""
    if threading.current_thread() is not threading.main_thread():  # only there can Python take signals
        yield lambda: False
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
