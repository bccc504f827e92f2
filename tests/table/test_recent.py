"""Reads from the process's memory: fast, and never behind what another process has written."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from foreword.errors import UsageError
from foreword.prompts import Prompt, SoftTokens
from foreword.table import PromptTable, recent, watch
from foreword.table.recent import Recent
from foreword.table.refs import Ref


def test_a_table_of_many_versions_is_read_fast() -> None:
    """A tenth of the benchmark's usual table, in bounds that a busy machine holds."""
    benchmark = Path(__file__).parents[2] / "benchmarks" / "table.py"
    command = [sys.executable, benchmark, "--json", "--versions", "10000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = {case["case"]: case["ms"] for case in json.loads(done.stdout)["cases"]}
    bounds = {"hit": 1, "read": 20, "read after a write": 20, "open and read": 100, "page": 200, "search": 500}
    assert found.keys() >= bounds.keys()
    assert {case: found[case] for case in bounds if found[case] > bounds[case]} == {}


def test_what_another_process_writes_is_seen_by_the_next_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    table = PromptTable.open(path)
    for body in "abc":
        table.put(Prompt("x", body), alias="first" if body == "a" else None)
    other = subprocess.Popen(
        [sys.executable, "-c", MOVER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert other.stdin is not None
    assert other.stdout is not None
    for step in range(60):
        version = step % 3 + 1
        assert table.get("x@first") is table.get("x@first")
        other.stdin.write(f"{version}\n")
        assert other.stdout.readline() == "moved\n"
        assert table.get("x@first").body == "abc"[version - 1]
    other.stdin.write("0\n")
    assert other.stdout.readline() == "moved\n"
    with pytest.raises(UsageError, match="'x' is deleted"):
        table.get("x:2")
    other.communicate()
    assert other.returncode == 0


MOVER = """
import sys
from foreword.table import PromptTable

table = PromptTable.open(sys.argv[1])
for line in sys.stdin:
    table.alias("x", "first", int(line)) if int(line) else table.delete("x")
    print("moved", flush=True)
"""


def test_a_file_that_takes_the_place_of_the_table_is_read_anew(tmp_path: Path) -> None:
    for name, body in (("now", "a"), ("backup", "b")):
        PromptTable.open(tmp_path / name / "prompts.db").put(Prompt("x", body))
    table = PromptTable.open(tmp_path / "now" / "prompts.db")
    assert table.get("x").body == "a"
    shutil.rmtree(tmp_path / "now")
    shutil.copytree(tmp_path / "backup", tmp_path / "now")
    assert table.get("x").body == "b"


def test_a_process_that_is_forked_reads_and_writes_for_itself(tmp_path: Path) -> None:
    """The connection that the parent keeps is left alone, even when the parent is gone before its children."""
    done = subprocess.run([sys.executable, "-c", FAMILY, tmp_path / "prompts.db"], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    deadline = time.monotonic() + 60
    table = PromptTable.open(tmp_path / "prompts.db")
    while len(bodies := [table.get(entry.ref).body for entry in table.list("x")]) < 41:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sorted(bodies) == sorted(["first", *(f"child {child}, {step}" for child in range(4) for step in range(10))])


FAMILY = """
import os, sys, time
from foreword.prompts import Prompt
from foreword.table import PromptTable

table = PromptTable.open(sys.argv[1])
table.put(Prompt("x", "first"))
table.get("x")
for child in range(4):
    if os.fork() == 0:
        for stream in (1, 2):  # else whoever waits for the parent's output waits for this too
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        for step in range(10):
            body = f"child {child}, {step}"
            stored = table.put(Prompt("x", body))
            assert table.get(stored.ref).body == body
            time.sleep(0.02)
        sys.exit()  # as a whole interpreter ends, closing all it has
"""


def test_threads_share_a_table(address: str) -> None:
    table, failed = PromptTable.open(address), []

    def work(number: int) -> None:
        try:
            for step in range(5):
                stored = table.put(Prompt(f"x{number % 2}", f"{number}, {step}"), alias=f"t{number}")
                assert table.get(stored.ref).body == f"{number}, {step}"
                assert table.get(f"x{number % 2}@t{number}").body == f"{number}, {step}"
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [entry.version for entry in table.list()] == [15, 15]


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_server_is_asked_again_after_a_second(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LIFETIME", 1_000)
    table, other = PromptTable.open(address), PromptTable.open(address)
    other.put(Prompt("x", "a"), alias="prod")
    assert table.get("x@prod").body == "a"
    other.put(Prompt("x", "b"), alias="prod")
    assert table.get("x@prod").body == "a"
    monkeypatch.setattr(watch, "LIFETIME", 0)
    assert table.get("x@prod").body == "b"
    monkeypatch.setattr(watch, "LIFETIME", 1_000)
    table.alias("x", "prod", 1)
    assert table.get("x@prod").body == "a", "one's own writes are seen at once"


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_PROMPTS", 3)
    monkeypatch.setattr(recent, "MAX_BYTES", 817)  # as much as e has
    kept = Recent()
    for name in "abc":
        kept.keep(Ref(name), 1, name, Prompt(name, "x"))
    assert kept.get(Ref("a"), 1) is not None
    kept.keep(Ref("d"), 1, "d", Prompt("d", "x"))
    assert [name for name in "abcd" if kept.get(Ref(name), 1)] == ["a", "c", "d"]
    assert kept.get(Ref("a"), 2) is kept.get(Ref("a"), None) is None
    soft = SoftTokens({"embeddings": np.ones((10, 20), np.float32)}, "tiny", "f", "m", "r", 8)
    kept.keep(Ref("e"), 1, "e", Prompt("e", "{{ virtual(10) }}", soft=soft))
    assert [name for name in "abcde" if kept.get(Ref(name), 1)] == ["e"]
    large = SoftTokens({"embeddings": np.ones((100, 20), np.float32)}, "tiny", "f", "m", "r", 8)
    kept.keep(Ref("f"), 1, "f", Prompt("f", "{{ virtual(100) }}", soft=large))
    assert [name for name in "ef" if kept.get(Ref(name), 1)] == ["e"], "one that is too large is not kept at all"
