"""What must be in order at the moment when a process is forked. Knows nothing of what that is."""

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something with a lock, and perhaps with what must not be in two processes."""

    def before_fork(self) -> None:
        """Takes the lock, so that no other thread is at work in it, and gives up what no child may have."""

    def after_fork(self) -> None:
        """Lets go of the lock, in parent and child."""


_there: "weakref.WeakSet[Forkable]" = weakref.WeakSet()
_ready = threading.local()  # two threads may fork at once


def watch_forks(thing: Forkable) -> None:
    """From now on, until it is gone, `thing` is told."""
    _there.add(thing)


def _before() -> None:
    _ready.things = list(_there)
    for thing in _ready.things:
        thing.before_fork()


def _after() -> None:
    for thing in _ready.things:
        thing.after_fork()
    _ready.things = []


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
