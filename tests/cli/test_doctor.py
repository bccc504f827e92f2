"""`foreword doctor`: content with a sound machine, precise about one that is not."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, name in (("FOREWORD_HOME", "home"), ("FOREWORD_CACHE", "cache")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))


def problems(call: Any, *arguments: object) -> list[str]:
    ended = call("doctor", "--json", *arguments)
    document = json.loads(ended.stdout)
    assert ended.exit_code == (1 if document["problems"] else 0)
    shown = call("doctor", *arguments)
    assert shown.exit_code == ended.exit_code
    assert all(f"problem: {problem}\n" in shown.stdout for problem in document["problems"])
    assert ("Nothing is wrong." in shown.stdout) == (not document["problems"])
    assert {"machine", "device", "dtype", "foreword", "torch", "backbone", "cache", "data"} <= document["facts"].keys()
    return list(document["problems"])


def test_a_sound_machine(call: Any, tmp_path: Path) -> None:
    assert problems(call) == []
    assert json.loads(call("doctor", "--json").stdout)["facts"]["data"] == str(tmp_path / "home")


def test_a_home_that_cannot_be_written(call: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREWORD_HOME", str(project / "rows.csv" / "home"))  # not even for root
    (found,) = problems(call)
    assert "rows.csv/home" in found
    assert "FOREWORD_HOME" in found
    monkeypatch.setenv("FOREWORD_HOME", str(project))
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != project)  # root may write anywhere
    assert problems(call) == [
        f"'{project}' cannot be written; set FOREWORD_CACHE and FOREWORD_HOME to folders of your own"
    ]


def test_a_table_that_is_none(call: Any, project: Path) -> None:
    (found,) = problems(call, "--table", "rows.csv")
    assert f"'{project / 'rows.csv'}': file is not a database" in found


def test_a_full_disk(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**9))
    assert [found.partition(" has ")[2] for found in problems(call)] == 2 * [
        "less than 3 GB free; delete something or move the folder"
    ]
