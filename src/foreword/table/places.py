"""Where bundles are kept: a folder, S3 and what is like it, a hub; all through fsspec. Knows no prompts.

Nothing here follows a link below the place's own root, reads more than it was told to, or shows a password.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foreword.errors import ForewordError, UsageError
from foreword.files import write_atomic
from foreword.redact import redact

KINDS = {"file": None, "memory": None, "s3": "s3", "hf": None, "gs": None, "abfs": None}
"""fsspec's file systems that can be used, and the extra that brings each."""
MAX_ENTRIES = 100_000
PIECE = re.compile(r"[A-Za-z0-9._+-]{1,200}", re.ASCII)
"""A file's or a folder's own name."""


class MissingError(ForewordError):
    """Nothing is there."""


class Place:
    """A folder somewhere. Names inside it are plain, joined by '/'."""

    def __init__(self, address: str | Path) -> None:
        address = str(address)
        self.shown = redact(address)
        kind, mark, rest = address.partition("://")
        if not mark:
            kind, rest = "file", address
        if kind not in KINDS or "::" in address:
            kinds = ", ".join(f"{name}://" for name in KINDS if name not in ("file", "memory"))
            raise UsageError(f"{self.shown!r} is no place for prompts: name a folder, or an address with {kinds}")
        if "@" in rest.split("/")[0] and mark:
            raise UsageError(
                f"{self.shown!r} holds a name or a password; leave it out: they are read from the environment, "
                "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self._local = kind == "file"
        if self._local:
            with self._clear(f"{self.shown!r}"):  # a name with a zero byte in it, a user that is not there
                self._root = str(Path(rest).expanduser().resolve())
            return
        with self._clear(f"{self.shown!r}"):
            import fsspec

            try:
                self._fs, self._root = fsspec.core.url_to_fs(address)
            except ImportError as error:
                extra = KINDS[kind]
                hint = f"pip install 'foreword[{extra}]'" if extra else str(error)
                raise ForewordError(f"{self.shown!r} needs a package that is not installed: {hint}") from error

    def names(self, folder: str = "") -> list[str]:
        """What is in a folder, in order; nothing when it is not there. Odd names are left out."""
        path = self._path(folder)
        with self._clear(self._say(folder)):
            try:
                if self._local:
                    found = os.listdir(path)
                else:
                    self._fs.invalidate_cache()
                    found = [entry.rstrip("/").rpartition("/")[2] for entry in self._fs.ls(path, detail=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        if len(found) > MAX_ENTRIES:
            raise ForewordError(f"{self._say(folder)} holds more than {MAX_ENTRIES:,} files; name a folder below it")
        return sorted({name for name in found if _plain(name)})

    def read(self, name: str, limit: int) -> bytes:
        """At most `limit` + 1 bytes of a file. Raises MissingError when it is not there."""
        path = self._path(name)
        with self._clear(self._say(name)):
            try:
                if self._local:
                    return _read_local(path, limit)
                with self._fs.open(path, "rb") as file:
                    data: bytes = file.read(limit + 1)
                    return data
            except (FileNotFoundError, NotADirectoryError):
                raise MissingError(f"there is no {self._say(name)}; see what its folder holds") from None

    def write(self, name: str, data: bytes) -> None:
        """A file, whole or not at all."""
        path = self._path(name)
        with self._clear(self._say(name)):
            if self._local:
                write_atomic(Path(path), data)
            else:
                self._fs.pipe_file(path, data)

    def _path(self, name: str) -> str:
        """The path of a name inside; no link is followed on the way there."""
        pieces = name.split("/") if name else []
        if not all(map(_plain, pieces)):
            raise ForewordError(f"{name!r:.200} leads out of {self.shown!r} or is no plain name; nothing is read")
        path = self._root
        for piece in pieces:
            path = f"{path.rstrip('/')}/{piece}"
            if self._local and os.path.islink(path):
                raise ForewordError(f"{path!r} is a link; links are not followed: put the files themselves there")
        return path

    def _say(self, name: str) -> str:
        return repr(f"{self.shown.rstrip('/')}/{name}" if name else self.shown)

    @contextmanager
    def _clear(self, what: str) -> Iterator[None]:
        """Every kind of place has errors of its own, and some tell more than they should."""
        try:
            yield
        except ForewordError:
            raise
        except Exception as error:
            said = redact(" ".join(str(error).split()))[:300] or type(error).__name__
            raise ForewordError(f"cannot use {what}: {said}; check the address and that you may use it") from None


def _plain(name: str) -> bool:
    return PIECE.fullmatch(name) is not None and name not in (".", "..")


def _read_local(path: str, limit: int) -> bytes:
    """An ordinary file: a pipe or a device is not waited for, and a link put there in between is not followed."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags), "rb") as file:
        status: Any = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ForewordError(f"{path!r} is no ordinary file")
        return file.read(limit + 1)
