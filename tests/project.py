"""Fixtures: a tiny backbone in a folder, a small task beside it, and `foreword` called as a user would from there."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import tiny
from foreword.cli.app import app

Call = Callable[..., Result]
TASK = """name: toy
data: rows.csv
split: {train: 40, dev: 20, test: 20}
inputs: [text]
target: {column: label, choices: [bad, good]}
"""
PLAIN = """---
inputs: {text: {}}
output: {choices: [bad, good]}
---
Review: {{ text }}
Sentiment:
"""
WORDS = {"good": ["quiet", "generous", "film", "good"], "bad": ["silly", "tedious", "simplistic", "bad"]}


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `tiny` and `other`: two random models of one shape."""
    folder = tmp_path_factory.mktemp("backbones")
    for seed, name in enumerate(("tiny", "other")):
        made = tiny.backbone("llama", seed=seed)
        made.model.save_pretrained(folder / name)
        made.tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def project(tmp_path: Path, backbones: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `toy.yaml`, `rows.csv`, `plain.prompt`, `free.prompt`, and the backbones."""
    folder = tmp_path / "project"
    folder.mkdir()
    rng = random.Random(0)
    rows = [f"{' '.join(rng.choices(WORDS[label], k=4))} {i},{label}" for i in range(40) for label in WORDS]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]))
    (folder / "toy.yaml").write_text(TASK)
    (folder / "plain.prompt").write_text(PLAIN)
    (folder / "free.prompt").write_text("Answer this. {{ text }}")
    for name in ("tiny", "other"):
        (folder / name).symlink_to(backbones / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture
def call(project: Path) -> Call:  # noqa: ARG001 - the folder to be in
    """`foreword …` in this process; whatever it is given, it ends with an exit code and never with a traceback."""

    def call(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture
def start(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., "subprocess.Popen[str]"]:  # noqa: ARG001
    """`foreword …` in a process of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in this process: sums in another order would differ in last bits

    def start(*arguments: object) -> "subprocess.Popen[str]":
        command = [str(Path(sys.executable).with_name("foreword")), *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start
