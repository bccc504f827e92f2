"""Many writers at once, and writers that are killed: nothing that was acknowledged is lost."""

import random
import subprocess
import sys
from pathlib import Path

from foreword.files import sha256_file
from foreword.table import PromptTable

WRITERS = """
import os, sys
import numpy as np
from foreword.prompts import Prompt, SoftTokens
from foreword.table import PromptTable

path, writers, puts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for writer in range(writers):
    if os.fork() == 0:
        table = PromptTable.open(path)  # all of them make and migrate it at once
        for number in range(puts):
            if writer % 2:
                vectors = np.full((2, 500), writer * 1000 + number, np.float32)
                soft = SoftTokens({"embeddings": vectors}, "tiny", "f", "m", "r", 8)
                prompt = Prompt("shared", "{{ virtual(2) }}", soft=soft)
            else:
                prompt = Prompt("shared", f"writer {writer}, put {number}")
            stored = table.put(prompt, alias=f"w{writer}")
            os.write(1, f"{stored.version} {stored.digest}\\n".encode())
        os._exit(0)
for _ in range(writers):
    assert os.wait()[1] == 0
"""


def read(line: str) -> tuple[int, str]:
    version, digest = line.split()
    return int(version), digest


def test_four_writers_of_one_name_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    done = subprocess.run([sys.executable, "-c", WRITERS, path, "4", "25"], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    acknowledged = dict(map(read, done.stdout.splitlines()))
    assert sorted(acknowledged) == list(range(1, 101))
    table = PromptTable.open(path)
    assert {row.version: row.digest for row in table.list("shared")} == acknowledged
    assert {table.get(f"shared:{version}").digest for version in range(1, 101)} == set(acknowledged.values())
    assert sorted(alias for row in table.list("shared") for alias in row.aliases) == ["w0", "w1", "w2", "w3"]


def test_a_killed_writer_leaves_every_acknowledged_version_and_no_half_tensor(tmp_path: Path) -> None:
    path = tmp_path / "prompts.db"
    command = [sys.executable, "-c", KILLED, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    acknowledged = dict(map(read, done.stdout.splitlines()))
    assert len(acknowledged) > 10
    table = PromptTable.open(path)
    stored = {row.version: row.digest for row in table.list("killed")}
    assert stored.items() >= acknowledged.items()
    assert sorted(stored) == list(range(1, len(stored) + 1))
    for version, digest in stored.items():
        assert table.get(f"killed:{version}").digest == digest
    for file in (tmp_path / "tensors").glob("*.safetensors"):
        assert sha256_file(file) == file.stem


KILLED = f"""
import os, random, signal, sys, time
import numpy as np
from foreword.prompts import Prompt, SoftTokens
from foreword.table import PromptTable

rng = random.Random({random.Random(3).random()})
for life in range(12):
    child = os.fork()
    if child == 0:
        table = PromptTable.open(sys.argv[1])
        for number in range(1000):
            vectors = np.full((64, 512), life * 1000 + number, np.float32)
            soft = SoftTokens({{"embeddings": vectors}}, "tiny", "f", "m", "r", 8)
            prompt = Prompt("killed", "{{{{ virtual(64) }}}}", soft=soft)
            stored = table.put(prompt)
            os.write(1, f"{{stored.version}} {{stored.digest}}\\n".encode())
    time.sleep(rng.uniform(0.05, 0.35))
    os.kill(child, signal.SIGKILL)
    os.wait()
"""
