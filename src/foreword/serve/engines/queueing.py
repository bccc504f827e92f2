"""How many requests may wait: so many in all, and of one prompt no more than there are places left. Knows keys only."""

from collections import Counter

from foreword.serve.engines.seam import QueueFullError

RETRY = (1.0, 60.0)
"""Seconds, at least and at most, after which a caller is told to come again."""


class Places:
    """Places for `waiting` requests. A prompt may wait with as many as there are free ones (Choudhury and Hahne 1998).

    So one prompt that is asked too often holds half of the places, two hold a third each, N of them an N + 1-th: others
    find the queue open, and since prompts take turns, none waits much longer than all do.
    An engine that does not tell what waits from what runs counts both, and gives places for those `running` too.
    """

    def __init__(self, waiting: int, running: int = 0) -> None:
        self.taken = 0
        self._waiting, self._running = waiting, running
        self._of: Counter[str] = Counter()

    def check(self, key: str, seconds: float) -> None:
        """Raises QueueFullError where there is none for the prompt `key`; one is free again every so many `seconds`."""
        waiting, ours = (max(0, taken - self._running) for taken in (self.taken, self._of[key]))
        free = self._waiting - waiting
        if ours >= free:
            whose, count = (key, ours) if free > 0 else (None, waiting)
            raise QueueFullError(count, min(max(seconds * waiting, RETRY[0]), RETRY[1]), whose)

    def take(self, key: str) -> None:
        self.taken += 1
        self._of[key] += 1

    def give_back(self, key: str) -> None:
        self.taken -= 1
        self._of[key] -= 1
        if not self._of[key]:
            del self._of[key]
