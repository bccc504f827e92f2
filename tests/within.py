"""A bound on what something takes of a core. What all other tests have left is not looked through meanwhile."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """A full collection takes half a second late in the suite, and would be counted where it happens to fall."""
    gc.disable()
    try:
        began = time.process_time()
        yield
        took = time.process_time() - began
    finally:
        gc.enable()
    assert took < seconds
