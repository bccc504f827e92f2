"""What of the vLLM engine needs no vLLM: whose turn it is, and the files of prefixes."""

import multiprocessing
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from foreword.errors import ForewordError
from foreword.prompts import Prompt
from foreword.prompts.soft import SoftTokens
from foreword.serve.engines.queueing import FairPriority
from foreword.serve.engines.vllm.launch import end_with_the_server
from foreword.serve.engines.vllm.prefixes import STEM, Prefixes


def prefix(seed: int, size: int = 4) -> Prompt:
    numbers = np.random.default_rng(seed).normal(size=(2, 1, 2, size)).astype(np.float32)
    soft = SoftTokens({"keys": numbers, "values": numbers}, "tiny", "0" * 64, "test", "run", 1)
    return Prompt(f"prefix-{seed}", "{{ virtual(2) }}Review: {{ text }}", soft=soft)


def test_who_has_left_the_queue_takes_no_turn_from_those_behind() -> None:
    priorities = FairPriority()
    priorities.begun(priorities.next("a"))
    gone = [priorities.next("a") for _ in range(1_000)]
    for place in reversed(gone):
        priorities.finished("a", place)
    other = priorities.next("b")
    assert priorities.next("a") - other <= 1
    ran = priorities.next("a")
    priorities.begun(ran)
    priorities.finished("a", ran)
    assert priorities.next("a") >= ran, "who has run has had its turn"


def test_prefixes_are_private_and_go_when_nobody_reads_them_and_others_need_the_room() -> None:
    first, second = prefix(1), prefix(2)
    prefixes = Prefixes(total=1)
    try:
        assert stat.S_IMODE(prefixes.folder.stat().st_mode) == 0o700
        one, same = prefixes.lend(first), prefixes.lend(first)
        prefixes.give_back(one)
        other = prefixes.lend(second)
        assert _files(prefixes.folder) == {one["prefix"], other["prefix"]}, "both are being read"
        prefixes.give_back(same)
        prefixes.give_back(other)
        again = prefixes.lend(second)
        assert _files(prefixes.folder) == {other["prefix"]}
        prefixes.give_back(again)
    finally:
        prefixes.close()
    assert not prefixes.folder.exists()


def test_a_prefix_that_cannot_be_written_is_not_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ForewordError("cannot write: no space left")

    prefixes = Prefixes()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("foreword.serve.engines.vllm.prefixes.write_atomic", full)
            with pytest.raises(ForewordError):
                prefixes.lend(prefix(1))
        lent = prefixes.lend(prefix(1))
        assert _files(prefixes.folder) == {lent["prefix"]}
        prefixes.give_back(lent)
    finally:
        prefixes.close()


def test_what_a_killed_server_left_is_taken_away_by_the_next_and_nothing_of_a_living_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    living, killed, young, outside = Prefixes(), tmp_path / f"{STEM}1", tmp_path / f"{STEM}2", tmp_path / "mine"
    for folder in (killed, young, outside):
        folder.mkdir()
        (folder / "file").touch()
    (tmp_path / f"{STEM}3").symlink_to(outside)
    long_ago = time.time() - 1000
    for folder in (living.folder, killed, outside):
        os.utime(folder, (long_ago, long_ago))
    Prefixes().close()
    assert (living.folder.exists(), killed.exists(), young.exists()) == (True, False, True)
    assert (outside / "file").exists()
    lent = living.lend(prefix(1))
    assert _files(living.folder) == {lent["prefix"]}
    living.close()


def test_a_process_ends_with_a_server_that_is_killed() -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", "from serve.engines.test_vllm_parts import be_a_server; be_a_server()"],
        stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert server.stdout is not None
    child = int(server.stdout.readline())
    server.kill()
    server.wait()
    rest = server.stdout.read()  # which the child holds open for as long as it lives
    server.stdout.close()
    assert (rest, child > 0) == ("", True)


def be_a_server() -> None:
    multiprocessing.get_context("spawn").Process(target=_be_vllms).start()


def _be_vllms() -> None:
    end_with_the_server()
    print(os.getpid(), flush=True)
    time.sleep(30)
    print("an orphan", flush=True)


def _files(folder: Path) -> set[object]:
    return {path.stem for path in folder.iterdir()}
