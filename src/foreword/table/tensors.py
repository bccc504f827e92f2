"""Vectors under the sha256 of their bytes, so that no change goes unnoticed: in a folder, or in a database that a team
shares. Knows no format.
"""

import hashlib
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import IntegrityError

from foreword.errors import ForewordError
from foreword.files import sha256_file, write_atomic
from foreword.table.database import Database
from foreword.table.schema import TensorRow


class Tensors(Protocol):
    """One copy of equal bytes, whoever stores them; they can be read by all who read the table."""

    def put(self, data: bytes) -> str:
        """Keeps `data` whole or not at all, unless it is there already; returns its sha256."""

    def get(self, digest: str, owner: str) -> bytes:
        """The bytes with this sha256. Raises ForewordError when they are missing or altered; `owner` needs them."""


class TensorFolder:
    """`<folder>/<sha256>.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
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


class TensorRows:
    """A row of the database for each. What an older foreword put into a folder is read from there."""

    def __init__(self, database: Database, before: TensorFolder) -> None:
        self._database, self._before = database, before

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        try:
            with self._database.session(write=True) as session:
                row = session.get(TensorRow, digest)
                if row is None:
                    session.add(TensorRow(digest=digest, data=data))
                elif row.data != data:
                    row.data = data  # a damaged row is written anew
        except IntegrityError:  # another writer of the same bytes was faster
            pass
        return digest

    def get(self, digest: str, owner: str) -> bytes:
        with self._database.session() as session:
            row = session.get(TensorRow, digest)
            data = row.data if row is not None else None
        if data is None:
            return self._before.get(digest, owner)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ForewordError(f"the vectors of {owner!r} are not what was stored; store the prompt again")
        return data
