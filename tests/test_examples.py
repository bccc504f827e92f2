"""The examples, in a copy of their folder on the real backbone."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SAYS = {
    "hard_vs_soft.py": ("9,216 numbers, 4 steps", "tickets-prompt-tuning"),
    "typed_answers.py": ("euros:",),
    "chain.py": ("short: ", "answer: ", "2 calls"),
    "any_callable.py": ("hard     tickets", "flow     short-tickets", "flow     keywords"),
    "serve_and_ask.py": ("tickets:1",),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which is the working directory; `foreword` is the one of this environment."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(shutil.copytree(EXAMPLES, tmp_path / "examples"))
    return Path.cwd()


def test_each_is_short_and_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".sh", ".yaml") and path.name != "tickets.yaml":
            assert f"]({path.name})" in listed, path.name
            assert len(path.read_text().splitlines()) <= 40, path.name
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)
    assert len((EXAMPLES / "plugin" / "plugin.py").read_text().splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_it_runs_and_says_what_it_shows(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "4"])
    runpy.run_path(str(folder / name), run_name="__main__")
    said = capsys.readouterr().out
    for part in SAYS[name]:
        assert part in said


@pytest.mark.slow
def test_the_gate_refuses_with_its_exit_code(folder: Path) -> None:
    done = subprocess.run([folder / "gate_in_ci.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the gate ended with exit code" in done.stdout
