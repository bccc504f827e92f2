"""Prompts take turns in vLLM's queue, which goes by numbers, the lowest first. Knows keys only."""


class Turns:
    """Each request of a prompt stands one place behind the one before it, and never before what runs already.

    So a hundred requests for one prompt do not keep one request for another waiting: start-time fair queueing.
    """

    def __init__(self) -> None:
        self._now = 0
        """The last place that has begun."""
        self._next: dict[str, int] = {}

    def place(self, key: str) -> int:
        """Where a request for the prompt `key` stands."""
        place = max(self._now, self._next.get(key, 0))
        self._next[key] = place + 1
        return place

    def left(self, key: str, place: int) -> None:
        """A request is over. Where it never ran, those who come next for `key` must not wait for its turn."""
        if place > self._now and key in self._next:
            self._next[key] -= 1

    def begun(self, place: int) -> None:
        """A request with this place runs; prompts whose turns are all over are forgotten."""
        if place > self._now:
            self._now = place
            self._next = {key: after for key, after in self._next.items() if after > place}
