"""Whether anything has been written to a database since one last looked, for a few microseconds. Knows no tables."""

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Protocol

from foreword.table.forks import watch_forks

LIFETIME = 1.0
"""Seconds for which what was read from a server counts as current."""


class Watch(Protocol):
    """Tells changes apart."""

    def stamp(self) -> Hashable | None:
        """Equal to an earlier one as long as what was read since then is current; None when that cannot be told."""

    def wrote(self) -> None:
        """To be called after every write of one's own."""


class FileWatch:
    """SQLite tells a connection when any other has written, in whatever process; one is kept for that question."""

    def __init__(self, path: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path, self._connect = path, connect
        self._lock = threading.RLock()
        self._kept: list[sqlite3.Connection] = []
        self._file = (0, 0)
        self._opened = 0
        weakref.finalize(self, _close, self._kept)
        watch_forks(self)

    def stamp(self) -> Hashable | None:
        with self._lock:
            try:
                found = os.stat(self._path)
                file = (found.st_dev, found.st_ino)
                if not self._kept or file != self._file:  # a backup may have taken its place
                    _close(self._kept)
                    self._kept.append(self._connect())
                    self._file, self._opened = file, self._opened + 1
                [version] = self._kept[0].execute("PRAGMA data_version").fetchone()
            except (OSError, sqlite3.Error):  # the read that follows says what is wrong
                return None
            return self._opened, version

    def wrote(self) -> None:
        """Nothing to do: writes go through other connections."""

    def before_fork(self) -> None:
        """SQLite counts its locks per process: a child that had this connection would write as if it held them."""
        self._lock.acquire()
        _close(self._kept)

    def after_fork(self) -> None:
        self._lock.release()


class ClockWatch:
    """A server is not asked: what was read counts for `LIFETIME`, or until one writes oneself."""

    def __init__(self) -> None:
        self._writes = 0
        self._since = time.monotonic()

    def stamp(self) -> Hashable:
        if (now := time.monotonic()) - self._since > LIFETIME:
            self._since = now
        return self._since, self._writes

    def wrote(self) -> None:
        self._writes += 1


def _close(connections: list[sqlite3.Connection]) -> None:
    while connections:
        with contextlib.suppress(sqlite3.Error):
            connections.pop().close()
