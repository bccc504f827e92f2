"""A file is the old one or the new one, whole, on disk, and the user's own."""

import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from foreword.errors import ForewordError
from foreword.files import read_text, write_atomic


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to write more, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with largest_file(1000), pytest.raises(ForewordError, match=rf"cannot write '{path}': File too large.*untouched"):
        write_atomic(path, bytes(5000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ForewordError, match=r"cannot write .*file/below'"):
        write_atomic(path / "below", b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_the_umask_is_honoured(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", b"1")
        write_atomic(tmp_path / "file", b"2")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_bytes_are_on_disk_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "newer" / "file"
    synced: list[tuple[int, bool]] = []
    exact = os.fsync

    def fsync(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, path.exists()))
        exact(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(path, b"data")
    assert synced[0] == (path.stat().st_ino, False)
    folders = {(folder.stat().st_ino, True) for folder in (path.parent, tmp_path / "new", tmp_path)}
    assert set(synced[1:]) == folders


def test_writers_at_once_never_mix(tmp_path: Path) -> None:
    path, size = tmp_path / "file", 300_000
    contents = [bytes([i]) * size for i in range(4)]
    write_atomic(path, contents[0])
    writers = [threading.Thread(target=lambda c=c: [write_atomic(path, c) for _ in range(10)]) for c in contents]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
        reads += 1
    for writer in writers:
        writer.join()
    assert reads > 1
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"caf\xe9", "list '.*a.txt' is no text in UTF-8; save it as such"),
        (b"x" * 11, "list '.*a.txt' has more than 10 bytes; take a smaller one"),
        (None, "cannot read list '.*a.txt': No such file or directory; look at the path"),
    ],
)
def test_a_text_that_cannot_be_read_is_told_with_its_place(tmp_path: Path, data: bytes | None, why: str) -> None:
    if data is not None:
        (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ForewordError, match=why):
        read_text(tmp_path / "a.txt", "list", 10)


def test_texts_have_one_kind_of_line_end_and_no_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\r\nb\rc\n".encode())
    assert read_text(path, "list") == "a\nb\nc\n"
    assert read_text(path, "list", mark=True) == "\ufeffa\nb\nc\n"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ForewordError, match=r"cannot read list '.*pipe': it is no ordinary file"):
        read_text(tmp_path / "pipe", "list", 10)
