"""Vectors on disk under the sha256 of their bytes, so that no change goes unnoticed. Knows no database, no format."""

import hashlib
from pathlib import Path

from foreword.errors import ForewordError
from foreword.files import sha256_file, write_atomic


class TensorFolder:
    """`<folder>/<sha256>.safetensors`: one file for equal bytes, whoever stores them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Writes `data` whole or not at all, unless it is there already; returns its sha256."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        try:
            there = path.is_file() and sha256_file(path) == digest  # a damaged file is written anew
        except OSError as error:
            raise ForewordError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        if not there:
            write_atomic(path, data)
        return digest

    def get(self, digest: str, owner: str) -> bytes:
        """The bytes with this sha256. Raises ForewordError when they are missing or altered; `owner` needs them."""
        path = self._path(digest)
        remedy = "bring the file back from a backup, or store the prompt again"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ForewordError(f"the vectors of {owner!r} are missing: there is no {str(path)!r}; {remedy}") from None
        except OSError as error:
            raise ForewordError(f"cannot read the vectors of {owner!r}: {str(path)!r}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ForewordError(f"the vectors of {owner!r} are altered: {str(path)!r} is not what was stored; {remedy}")
        return data

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.safetensors"
