"""Whether anything has been written to a database since one last looked, for a few microseconds. Knows no tables."""

import contextlib
import ctypes
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Protocol

from foreword.table.forks import renew_after_fork

LIFETIME = 1.0
"""Seconds for which what was read from a server counts as current."""


class Watch(Protocol):
    """Tells changes apart."""

    def stamp(self) -> Hashable | None:
        """Equal to an earlier one as long as what was read since then is current; None when that cannot be told."""

    def wrote(self) -> None:
        """To be called after every write of this process."""


class FileWatch:
    """SQLite tells a connection when any other has written, in whatever process; one is kept for that question."""

    def __init__(self, path: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path, self._connect = path, connect
        self._lock = threading.Lock()
        self._kept: list[sqlite3.Connection] = []
        self._file = (0, 0)
        self._opened = 0
        weakref.finalize(self, _close, self._kept)
        renew_after_fork(self)

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

    def renew(self) -> None:
        """SQLite forbids a child even to close its parent's connection, so that is kept for ever, and left alone."""
        self._lock = threading.Lock()
        while self._kept:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._kept.pop()))


class ClockWatch:
    """A server is not asked: what was read counts for `LIFETIME`, or until this process writes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._writes = 0
        self._since = (0, clock())

    def stamp(self) -> Hashable:
        count, since = self._since
        if (now := self._clock()) - since > LIFETIME:
            self._since = count + 1, now
        return self._since, self._writes

    def wrote(self) -> None:
        self._writes += 1


def _close(connections: list[sqlite3.Connection]) -> None:
    while connections:
        with contextlib.suppress(sqlite3.Error):
            connections.pop().close()
