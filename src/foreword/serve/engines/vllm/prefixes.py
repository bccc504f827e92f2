"""Learned keys and values as files in a private folder, where vLLM's processes find them. Knows prompts, not vLLM."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from foreword.files import write_atomic
from foreword.prompts import Prompt

GB = 1024**3
STEM = "foreword-prefixes-"
YOUNG = 60.0
"""The seconds in which a folder may not be locked yet by the server that makes it."""


class Prefixes:
    """A file for each learned prefix that is in use, and for those used last, up to `total` bytes. Thread-safe."""

    def __init__(self, total: int = 4 * GB) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=STEM))
        self._held: int | None = os.open(self.folder, os.O_RDONLY)
        fcntl.flock(self._held, fcntl.LOCK_SH)  # until this process ends, however it does
        self._total, self._lock = total, threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._users: dict[str, int] = {}

    def lend(self, prompt: Prompt) -> Mapping[str, object]:
        """What vLLM's request carries for it; the file stays until `give_back`."""
        assert prompt.soft is not None
        name, tokens = prompt.soft.digest, len(prompt.soft)
        path = self.folder / f"{name}.safetensors"
        with self._lock:
            if name not in self._sizes or not path.exists():  # some systems tidy up old files
                data = prompt.soft.to_bytes()
                write_atomic(path, data)
                self._sizes[name] = len(data)
            self._sizes.move_to_end(name)
            self._users[name] = self._users.get(name, 0) + 1
            self._make_room()
        return {"prefix": name, "tokens": tokens}

    def give_back(self, lent: Mapping[str, object]) -> None:
        """Nobody reads it for this request any more."""
        name = str(lent["prefix"])
        with self._lock:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    def close(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _make_room(self) -> None:
        for name in [name for name in self._sizes if name not in self._users]:
            if sum(self._sizes.values()) <= self._total:
                return
            del self._sizes[name]
            (self.folder / f"{name}.safetensors").unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Take away the folders of servers that were killed."""
    for folder in parent.glob(f"{STEM}*"):
        with contextlib.suppress(OSError):  # another user's, or gone
            if time.time() - folder.stat().st_mtime < YOUNG:
                continue
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its server lives
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(opened)
