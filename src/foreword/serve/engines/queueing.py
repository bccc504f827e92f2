"""How requests for many prompts share an engine: how many may wait, after how long a client that is refused may try
again, who is next, how fast it goes. Knows keys only.
"""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from foreword.serve.engines.seam import QueueFullError

T = TypeVar("T")
RETRY_SECONDS = (1.0, 60.0)
"""The least and the most after which a caller is told to come again."""
RECENT = 32
"""Requests whose ends tell how fast the queue moves."""


class QueueLimit:
    """How many requests may wait: so many in all, and of one prompt no more than there are places free.

    These are the dynamic thresholds of Choudhury and Hahne (1998): one prompt that is asked too often holds half of the
    `waiting` places, two hold a third each, N of them an N + 1-th. Others find the queue open, and since prompts take
    turns, none waits much longer than all do. An engine that does not tell what waits from what runs counts both, and
    gives places for those `running` too.
    """

    def __init__(self, waiting: int, running: int = 0) -> None:
        self.taken = 0
        self._waiting, self._running = waiting, running
        self._taken_by: Counter[str] = Counter()

    def check(self, key: str, seconds: float) -> None:
        """Raises QueueFullError where there is no place for the prompt `key`; one becomes free every `seconds`."""
        waiting, ours = (max(0, taken - self._running) for taken in (self.taken, self._taken_by[key]))
        free = self._waiting - waiting
        if ours >= free:
            whose, count = (key, ours) if free > 0 else (None, waiting)
            least, most = RETRY_SECONDS
            raise QueueFullError(count, min(max(seconds * waiting, least), most), whose)

    def take(self, key: str) -> None:
        """A request for the prompt `key` has come."""
        self.taken += 1
        self._taken_by[key] += 1

    def give_back(self, key: str) -> None:
        """A request for the prompt `key` does not wait any more."""
        self.taken -= 1
        self._taken_by[key] -= 1
        if not self._taken_by[key]:
            del self._taken_by[key]


class FairQueue(Generic[T]):
    """A queue in which keys take turns: first in, first out under each key, and one of each key in turn."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()

    def __iter__(self) -> Iterator[T]:
        return (item for queue in self._queues.values() for item in queue)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, key: str, item: T) -> None:
        """Add an item behind all others of its key."""
        self._queues.setdefault(key, deque()).append(item)

    def first(self) -> T:
        """The item whose turn it is. Raises StopIteration where nothing waits."""
        return next(iter(self._queues.values()))[0]

    def pop(self) -> T:
        """Take the first item; its key's turn comes again after all others'."""
        key, queue = next(iter(self._queues.items()))
        item = queue.popleft()
        if queue:
            self._queues.move_to_end(key)
        else:
            del self._queues[key]
        return item

    def remove(self, lost: Callable[[T], bool]) -> list[T]:
        """Take out all items that are `lost`, wherever they stand."""
        removed = [item for item in self if lost(item)]
        if removed:
            for key, queue in list(self._queues.items()):
                kept = deque(item for item in queue if not lost(item))
                if kept:
                    self._queues[key] = kept
                else:
                    del self._queues[key]
        return removed


class FairPriority:
    """Priorities for a queue that serves the lowest number first, such as vLLM's: start-time fair queueing.

    Each request of a prompt stands one place behind the one before it, and never before what runs already. So a hundred
    requests for one prompt do not keep one request for another waiting.
    """

    def __init__(self) -> None:
        self._now = 0
        """The last priority that has begun."""
        self._next: dict[str, int] = {}

    def next(self, key: str) -> int:
        """The priority of a new request for the prompt `key`."""
        priority = max(self._now, self._next.get(key, 0))
        self._next[key] = priority + 1
        return priority

    def finished(self, key: str, priority: int) -> None:
        """A request is over. Where it never ran, those that come next for `key` must not wait for its turn."""
        if priority > self._now and key in self._next:
            self._next[key] -= 1

    def begun(self, priority: int) -> None:
        """A request with this priority runs; prompts whose turns are all over are forgotten."""
        if priority > self._now:
            self._now = priority
            self._next = {key: after for key, after in self._next.items() if after > priority}


class Pace:
    """How fast requests end, by the last of them. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=RECENT)

    def ended(self) -> None:
        """A request has ended now."""
        self._ends.append(time.monotonic())

    def clear(self) -> None:
        """Forget what was: a pause tells nothing of how fast requests end."""
        self._ends.clear()

    def seconds(self) -> float:
        """The mean time between two ends; one second where too few are known."""
        ends = list(self._ends)
        return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else 1.0
