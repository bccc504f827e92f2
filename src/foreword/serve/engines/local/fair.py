"""A queue in which keys take turns, so that a busy prompt does not keep the others waiting. Knows nothing of rows."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out under each key; one of each key in turn."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()

    def __iter__(self) -> Iterator[T]:
        return (item for queue in self._queues.values() for item in queue)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, key: str, item: T) -> None:
        self._queues.setdefault(key, deque()).append(item)

    def first(self) -> T:
        """Whose turn it is; raises StopIteration where nobody waits."""
        return next(iter(self._queues.values()))[0]

    def pop(self) -> T:
        """Take the first; its key's turn comes again after all others'."""
        key, queue = next(iter(self._queues.items()))
        item = queue.popleft()
        if queue:
            self._queues.move_to_end(key)
        else:
            del self._queues[key]
        return item

    def remove(self, lost: Callable[[T], bool]) -> list[T]:
        """Take out all that are `lost`, wherever they stand."""
        found = [item for item in self if lost(item)]
        if found:
            for key, queue in list(self._queues.items()):
                kept = deque(item for item in queue if not lost(item))
                if kept:
                    self._queues[key] = kept
                else:
                    del self._queues[key]
        return found
