"""Folders and files on this machine. Knows how to write without ever leaving half a file behind; knows no formats."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from foreword.errors import ForewordError


def cache_dir() -> Path:
    """What can be fetched or made again: `$FOREWORD_CACHE`, or the user's cache directory."""
    return _folder("FOREWORD_CACHE", "XDG_CACHE_HOME", ".cache")


def data_dir() -> Path:
    """What a user would miss: `$FOREWORD_HOME`, or the user's data directory. The prompt table lives here."""
    return _folder("FOREWORD_HOME", "XDG_DATA_HOME", ".local/share")


def _folder(own: str, xdg: str, default: str) -> Path:
    if value := os.environ.get(own):
        return Path(value).expanduser().absolute()
    base = os.environ.get(xdg)
    return (Path(base) if base else Path.home() / default) / "foreword"


def read_text(path: Path, what: str, limit: int | None = None, *, mark: bool = False) -> str:
    """The text of a file in UTF-8, with a line feed at the end of every line; `what` the file is goes into errors.

    A byte order mark is taken off, unless the `mark` is asked for. With a `limit` in bytes, only an ordinary file is
    read, and no larger one. Raises ForewordError where there is none, or it is no text.
    """
    try:
        if limit is not None and path.exists() and not path.is_file():  # a pipe would be waited for
            raise ForewordError(f"cannot read {what} {str(path)!r}: it is no ordinary file; name another one")
        with path.open("rb") as file:
            data = file.read() if limit is None else file.read(limit + 1)
    except OSError as error:
        raise ForewordError(f"cannot read {what} {str(path)!r}: {error.strerror or error}; look at the path") from error
    if limit is not None and len(data) > limit:
        raise ForewordError(f"{what} {str(path)!r} has more than {limit:,} bytes; take a smaller one")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ForewordError(f"{what} {str(path)!r} is no text in UTF-8; save it as such") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if mark else text.removeprefix("\ufeff")


def write_atomic(path: Path, data: bytes, durable: bool = True) -> None:
    """Write `data` to `path` so that a reader, a crash or a full disk sees the old file or the new one, never a part.

    Once it returns, a power cut does not lose the file, unless it need not be `durable`, which takes less time. Its
    permissions are what the user's umask leaves of rw-rw-rw-.
    Raises ForewordError when the file cannot be written; what stood there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        for folder in {path.parent, *(new.parent for new in made)} if durable else ():
            _sync_folder(folder)
    except OSError as error:
        raise ForewordError(
            f"cannot write {str(path)!r}: {error.strerror or error}. What was saved there before is untouched; "
            "free some space or choose another folder, and run the command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to tell
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until nobody else reads and rewrites `path`; the system lets go of it when a process dies.

    What is held is a file beside it, for `path` is another file after every change.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise ForewordError(f"cannot write beside {str(path)!r}: {error.strerror or error}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def locked(folder: Path, work: str, writes: Sequence[str] = ()) -> Iterator[None]:
    """Hold `folder` for this process, which does `work` in it; the system lets go of it when the process dies.

    Of the files that the work `writes`, a process that was killed may have left parts behind: they are swept away.
    Raises ForewordError while another process holds the folder, or where it cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ForewordError(f"cannot use the folder {str(folder)!r}: {error.strerror}; choose another one") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ForewordError(
                f"another process is {work} in {str(folder)!r}; wait for it or choose another folder"
            ) from None
        for name in writes:
            for part in folder.glob(f".{name}.*.part"):  # nobody writes it any more: this process holds the folder
                part.unlink(missing_ok=True)
        yield


def _sync_folder(folder: Path) -> None:
    """A new name is on disk only once its folder is."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may take files and yet not be read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make the folder of a result, so that one that cannot be is told before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ForewordError(f"cannot use the folder {str(folder)!r}: {error.strerror}; choose another --out") from error
