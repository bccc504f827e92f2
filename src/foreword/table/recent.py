"""Prompts that were read a short while ago. Knows references and prompts; whether anything has changed is told it."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from foreword.prompts import Prompt
from foreword.table.forks import watch_forks
from foreword.table.refs import Ref

MAX_PROMPTS = 1_000
MAX_BYTES = 256 * 2**20
MAX_REFS = 10_000


class Recent:
    """What a reference stands for is known while the stamp stays the same; a digest's prompt never changes.

    Safe for many threads. What was used longest ago goes first.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stamp: Hashable | None = None
        self._refs: dict[Ref, str] = {}
        self._prompts: OrderedDict[str, Prompt] = OrderedDict()
        self._bytes = 0
        watch_forks(self)

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self) -> None:
        self._lock.release()

    def get(self, ref: Ref, stamp: Hashable | None) -> Prompt | None:
        with self._lock:
            if stamp is None or stamp != self._stamp:
                return None
            digest = self._refs.get(ref)
            return self._touch(digest) if digest is not None else None

    def holding(self, digest: str) -> Prompt | None:
        """The prompt with this digest."""
        with self._lock:
            return self._touch(digest)

    def keep(self, ref: Ref, stamp: Hashable | None, digest: str, prompt: Prompt) -> None:
        """`ref` stood for `prompt`, which has this digest, when it was read, after `stamp` was taken."""
        size = prompt.nbytes
        with self._lock:
            if stamp != self._stamp or len(self._refs) >= MAX_REFS:
                self._stamp, self._refs = stamp, {}
            self._refs[ref] = digest
            if digest not in self._prompts and size <= MAX_BYTES:
                self._prompts[digest] = prompt
                self._bytes += size
            while len(self._prompts) > MAX_PROMPTS or self._bytes > MAX_BYTES:
                self._bytes -= self._prompts.popitem(last=False)[1].nbytes

    def _touch(self, digest: str) -> Prompt | None:
        if digest not in self._prompts:
            return None
        self._prompts.move_to_end(digest)
        return self._prompts[digest]
