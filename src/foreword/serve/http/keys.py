"""API keys: a file of their hashes, and who may do what. Knows no HTTP.

Keys are drawn at random with 256 bits, so that one round of SHA-256 keeps them as well as a slow hash would.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foreword.errors import ForewordError, UsageError
from foreword.files import one_at_a_time, write_atomic
from foreword.forms import validation_message
from foreword.serve.log import write

Scope = Literal["use", "admin"]
PREFIX = "fw-"
MAX_BYTES = 1_000_000
MAX_KEY = 200
"""The most characters of a key that a client shows; ours have 46."""


class Key(BaseModel):
    """A key as the file has it: all but the key itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    scopes: tuple[Scope, ...] = ("use",)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    created: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: tuple[Key, ...] = ()


class Keys:
    """The keys in a file. A change of the file counts at once; a file that cannot be read changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()
        self._stamp, self._keys = self._look(), read_keys(path)

    def find(self, shown: str) -> Key | None:
        """The key that a client shows, looked for in a time that does not tell how near it came."""
        self._refresh()
        digest = hashlib.sha256(shown[:MAX_KEY].encode(errors="replace")).hexdigest()
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                match = key
        return match

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except ForewordError as error:  # told once for every change: a key may not be gone that was to go
            write("keys unchanged", logging.WARNING, problem=str(error))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in `path`. Raises ForewordError when it is no such file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ForewordError(f"{str(path)!r} is larger than {MAX_BYTES:,} bytes; that is no file of keys")
        return _File.model_validate(json.loads(data)).keys
    except FileNotFoundError:
        raise ForewordError(
            f"no file of keys {str(path)!r}; make one with 'foreword serve keys add NAME --keys {path}'"
        ) from None
    except OSError as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        what = f"{str(path)!r} is no file of keys"
        said = (
            validation_message(what, error, _File, values=False)
            if isinstance(error, ValidationError)
            else f"{what}: {error}"
        )
        raise ForewordError(f"{said}; make a new one") from error


def add_key(path: Path, name: str, scopes: tuple[Scope, ...]) -> str:
    """Put a new key into `path` and return it: nobody can read it there again."""
    key = PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        entry = Key(name=name, scopes=scopes, sha256=digest, created=datetime.now(UTC).isoformat(timespec="seconds"))
    except ValidationError:
        raise UsageError(f"key name {name!r}: take letters, digits, '.', '_' and '-', 64 characters at most") from None
    with one_at_a_time(path):
        keys = read_keys(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise UsageError(f"{str(path)!r} has a key {name!r} already; remove it first or choose another name")
        _write(path, (*keys, entry))
    return key


def remove_key(path: Path, name: str) -> None:
    """Take a key out of `path`; a server that reads it refuses the key from then on."""
    read_keys(path)  # where there is none, no lock is left beside it
    with one_at_a_time(path):
        keys = read_keys(path)
        kept = tuple(key for key in keys if key.name != name)
        if len(kept) == len(keys):
            raise UsageError(f"{str(path)!r} has no key {name!r}; it has {[key.name for key in keys]}")
        _write(path, kept)


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    write_atomic(path, json.dumps(_File(keys=keys).model_dump(mode="json"), indent=2).encode() + b"\n")
    path.chmod(0o600)
