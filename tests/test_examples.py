"""The examples, in a copy of their folder on the real backbone, and the recipes of CONTRIBUTING.md."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
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


def write_metadata(site: Path, package: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    """What pip would write beside a package's modules: its name, and its entry points."""
    info = site / f"{package}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{n} = {to}\n" for n, to in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.mark.slow
def test_the_plugin_is_known_once_it_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = folder / "plugin"
    project = tomllib.loads((site / "pyproject.toml").read_text())["project"]
    write_metadata(site, "foreword_plugin_example", project["entry-points"])
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    task = (folder / "tickets.yaml").read_text().replace("accuracy", "close")
    (folder / "close.yaml").write_text(f"{task}metric: close\n")
    tune = ["foreword", "tune", "close.yaml", "--start", "tickets.prompt", "--method", "scaled", "--steps", "2"]
    done = subprocess.run([*tune, "--batch", "4", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"method": "scaled"' in done.stdout
    assert '"close"' in done.stdout
    ask = "from foreword.evals import STRATEGIES; print(*STRATEGIES)"
    assert "longest" in subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout


CODE = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
POINTS = re.compile(r"^```toml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_recipes_work_as_they_are_written(tmp_path: Path) -> None:
    """Each recipe's code, as another package's, under the test that stands beside it."""
    recipes = (ROOT / "CONTRIBUTING.md").read_text()
    for name, code in CODE.findall(recipes):
        (tmp_path / name).write_text(code)
    points = tomllib.loads("".join(POINTS.findall(recipes)))["project"]["entry-points"]
    write_metadata(tmp_path, "recipes", points)
    tests = sorted(path.name for path in tmp_path.glob("test_*.py"))
    assert tests == ["test_close.py", "test_dollar.py", "test_longest.py", "test_scaled.py", "test_words.py"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout
