"""A file from a URL with a known sha256, resumable by another process. Knows HTTP; not what the file is, nor who names
its sha256.

A URL may carry a name and a password: they go to that address alone, never on to where it redirects, into no message.
"""

import base64
import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import unquote, urlsplit

from foreword.files import sha256_file
from foreword.listen import Count

MAX_BYTES = 4 * 2**30  # of a file whose size nobody states
BLOCK_BYTES = 2**18
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 4
PAUSE_SECONDS = 0.5  # before the second attempt, then twice as long each time


T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Download:
    """What to fetch, and what its bytes must be."""

    name: str
    """For people."""
    url: str
    sha256: str
    """64 hex digits, lower case."""
    size: int | None
    """Bytes; None where nobody states it."""


class DownloadError(Exception):
    """The file cannot be had; the message says why and shows no password. What came so far is kept."""


class BrokenError(DownloadError):
    """The connection broke, or the server was busy: a later attempt may do better."""


class RefusedError(DownloadError):
    """The server understood and said no, with this HTTP status; None where the address is not one to ask."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class DamagedError(DownloadError):
    """What came does not fit its sha256, again and again; it was removed."""


def download(file: Download, part: Path, on_bytes: Count | None = None) -> None:
    """Brings `part` to the whole file, going on from the bytes that an earlier process left there.

    `on_bytes` is called with the bytes that are here, and those in all (0 when the server does not say).
    Raises DownloadError, and OSError for the disk's failures only.
    """
    for _ in range(2):
        _patiently(lambda: _resume(file, part, on_bytes))
        if sha256_file(part) == file.sha256:
            return
        part.unlink()
        logger.warning("the download of %r did not fit its sha256 and was removed", file.name)
    raise DamagedError(
        f"{file.name!r} came from {shown(file.url)!r} twice with a sha256 other than the expected {file.sha256!r}; "
        "both downloads were removed, and something between here and there changes files"
    )


def get(url: str, headers: dict[str, str], max_bytes: int) -> tuple[bytes, str]:
    """The first `max_bytes` of a page, and the address that it came from in the end. Raises DownloadError."""

    def read() -> tuple[bytes, str]:
        with _open(url, headers) as response:
            data = _read(response, max_bytes)
            if response.length:
                raise BrokenError(f"{shown(url)!r} broke off after {len(data):,} bytes")
            return data, response.geturl()

    return _patiently(read)


def shown(url: str) -> str:
    """The address without the name and password it may carry."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _resume(file: Download, part: Path, on_bytes: Count | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    if file.size is not None and done >= file.size:
        return
    try:
        response = _open(file.url, {"Range": f"bytes={done}-"} if done else {})
    except RefusedError as error:
        if error.status == 416 and done:  # nothing lies beyond what is here; the sha256 tells whether it is whole
            return
        raise
    with response:
        if response.status != 206:
            done = 0  # the server ignores Range and sends the file from its start
        total = file.size or (done + response.length if response.length is not None else 0)
        with part.open("ab" if done else "wb") as out:
            # Bytes past the stated size are not written: the sha256 will not fit anyway.
            while done < (total or MAX_BYTES) and (block := _read(response, BLOCK_BYTES)):
                out.write(block)
                done += len(block)
                if on_bytes is not None:
                    on_bytes(done, total)
    if done < total:
        raise BrokenError(f"{shown(file.url)!r} broke off after {done:,} of {total:,} bytes")


def _patiently(attempt: Callable[[], T]) -> T:
    for pause in range(ATTEMPTS - 1):
        try:
            return attempt()
        except BrokenError:
            time.sleep(PAUSE_SECONDS * 2**pause)
    return attempt()


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    address, parts = shown(url), urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise RefusedError(f"{address!r} is not an http or https address", None)
    request = urllib.request.Request(address, headers=headers)
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
    try:
        return cast(http.client.HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 429 or error.code >= 500:
            raise BrokenError(f"{address!r} answered HTTP {error.code}") from error
        raise RefusedError(f"{address!r} answered HTTP {error.code}", error.code) from error
    except urllib.error.URLError as error:
        raise BrokenError(f"cannot reach {address!r} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise BrokenError(f"cannot reach {address!r} ({error or type(error).__name__})") from error


def _read(response: http.client.HTTPResponse, size: int) -> bytes:
    """At most `size` bytes. Network failures leave as BrokenError, so that an OSError is always the disk's."""
    try:
        return response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenError(f"{shown(response.geturl())!r} broke off ({error or type(error).__name__})") from error
