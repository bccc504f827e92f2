"""How many requests may wait: so many in all, and of one prompt half of them. Knows keys only."""

from collections import Counter

from foreword.serve.engine import QueueFullError

RETRY = (1.0, 60.0)
"""Seconds, at least and at most, after which a caller is told to come again."""


class Places:
    """Places for `waiting` requests. A prompt holds at most half of them, so that others find the queue open.

    An engine that does not tell what waits from what runs counts both, and gives places for those `running` too.
    """

    def __init__(self, waiting: int, running: int = 0) -> None:
        self.taken = 0
        self._running, self._all, self._share = running, running + waiting, running + max(1, waiting // 2)
        self._of: Counter[str] = Counter()

    def check(self, key: str, seconds: float) -> None:
        """Raises QueueFullError where there is none for the prompt `key`; one is free again every so many `seconds`."""
        for whose, taken, most in ((None, self.taken, self._all), (key, self._of[key], self._share)):
            if taken >= most:
                soon = min(max(seconds * (self.taken - self._running), RETRY[0]), RETRY[1])
                raise QueueFullError(taken - self._running, soon, whose)

    def take(self, key: str) -> None:
        self.taken += 1
        self._of[key] += 1

    def give_back(self, key: str) -> None:
        self.taken -= 1
        self._of[key] -= 1
        if not self._of[key]:
            del self._of[key]
