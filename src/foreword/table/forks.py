"""Things that a forked process must not share with the one it came from. Knows nothing of what they are."""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something that can begin anew."""

    def renew(self) -> None:
        """Called in the new process, which has one thread, before it goes on."""


_there: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """From now on, until it is gone, `thing` begins anew in every process forked from this one."""
    _there.add(thing)


def _renew_all() -> None:
    for thing in list(_there):
        thing.renew()


os.register_at_fork(after_in_child=_renew_all)
