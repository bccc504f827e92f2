"""One run to a folder: a second process is refused while the first is alive, however it ends.

A process that is killed while it writes leaves a part of a file behind; the next one sweeps it away.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from foreword.errors import ForewordError

FILES = ("run.json", "checkpoint.safetensors", "curves.jsonl")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the system lets go of it when the process dies."""
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
                f"another process is tuning in {str(folder)!r}; wait for it or choose another folder"
            ) from None
        for name in FILES:
            for part in folder.glob(f".{name}.*.part"):  # nobody writes it any more: this process holds the folder
                part.unlink(missing_ok=True)
        yield
