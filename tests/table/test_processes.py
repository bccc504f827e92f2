"""Many writers at once, and writers that are killed: what was acknowledged is there, and nothing is there twice."""

import subprocess
import sys
from pathlib import Path

import pytest

from foreword.files import sha256_file
from foreword.table import PromptTable, Stored

WRITERS = 8

SCRIPT = """
import mmap, os, random, signal, struct, sys, time
import numpy as np
from foreword.prompts import Prompt, SoftTokens
from foreword.table import PromptTable

address, writers, puts, kills, log = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
started = mmap.mmap(-1, 8 * writers)  # by each writer, whatever becomes of it

def prompt(writer, number):
    if number % 8:
        return Prompt("shared", f"writer {writer}, put {number}")
    vectors = np.full((16, 512), writer * 1000 + number, np.float32)
    soft = SoftTokens({"embeddings": vectors}, "tiny", "f", "m", "r", 8)
    return Prompt("shared", "{{ virtual(16) }}", soft=soft)

def live(writer):
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    table = PromptTable.open(address)  # all of them make and migrate it at once
    (before,) = struct.unpack_from("q", started, 8 * writer)
    for number in range(before + 1, puts // writers + 1):
        struct.pack_into("q", started, 8 * writer, number)
        stored = table.put(prompt(writer, number), alias=f"w{writer}")
        os.write(out, f"{stored.version} {stored.digest} {writer}\\n".encode())

def begin(writer):
    child = os.fork()
    if child == 0:
        live(writer)
        os._exit(0)
    return child

rng = random.Random(3)
there = {writer: begin(writer) for writer in range(writers)}
killed = 0
while killed < kills:
    time.sleep(rng.uniform(0, 0.2))
    writer = rng.randrange(writers)
    if struct.unpack_from("q", started, 8 * writer)[0] > puts // writers - 3:
        break  # so fast a machine that they are done
    os.kill(there[writer], signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(there[writer], 0)[1]) == signal.SIGKILL
    there[writer] = begin(writer)
    killed += 1
for child in there.values():
    assert os.waitpid(child, 0)[1] == 0
print(killed)
"""


@pytest.mark.parametrize(
    ("address", "puts", "kills"), [("sqlite", 2_000, 24), ("postgresql", 240, 8)], indirect=["address"]
)
def test_eight_writers_of_one_name_some_killed_lose_nothing(
    address: str, puts: int, kills: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", SCRIPT, address, *map(str, (WRITERS, puts, kills)), log]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    killed = int(done.stdout)
    assert killed > kills // 3
    lines = [line.split() for line in log.read_text().splitlines()]
    acknowledged = {int(version): (digest, int(writer)) for version, digest, writer in lines}
    assert len(acknowledged) == len(lines), "no version was given twice"
    assert puts - killed <= len(acknowledged) <= puts

    table = PromptTable.open(address)
    stored = {entry.version: entry for entry in table.list("shared")}
    assert sorted(stored) == list(range(1, len(stored) + 1))
    assert {version: stored[version].digest for version in acknowledged} == {v: d for v, (d, _) in acknowledged.items()}
    assert len({entry.digest for entry in stored.values()}) == len(stored) <= puts, "nothing is there twice"
    assert {entry.parent for entry in stored.values()} == {None, *(f"shared:{v}" for v in range(1, len(stored)))}
    check_prompts(table, stored)
    if "://" not in address:
        for file in (tmp_path / "tensors").glob("*.safetensors"):
            assert sha256_file(file) == file.stem
    for writer in range(WRITERS):
        moves = table.alias_history("shared", f"w{writer}")
        own = [version for version, (_, who) in acknowledged.items() if who == writer]
        assert {move.version for move in moves} >= set(own)
        assert [move.before for move in moves] == [*(move.version for move in moves[1:]), None]
        assert stored[moves[0].version].aliases == (f"w{writer}",)


def check_prompts(table: PromptTable, stored: dict[int, Stored]) -> None:
    """Every prompt with vectors can be read, and one in twenty of the others."""
    for version, entry in stored.items():
        if entry.kind == "soft" or version % 20 == 0:
            assert table.get(entry.ref).digest == entry.digest
