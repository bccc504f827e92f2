"""What `pip install foreword` gives: all of the package, nothing else, and a demo that needs no repository."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "foreword"
FEW_ROWS = """
import dataclasses, sys
from foreword.tasks import Task

load = Task.load


def few(*given, **named):
    task = load(*given, **named)
    return dataclasses.replace(task, train=task.train[:48], dev=task.dev[:8], test=task.test[:8])


Task.load = staticmethod(few)

from foreword.cli import main

sys.argv = ["foreword", "demo", "--steps", "1"]
main()
"""
"""The demo as it is, on a few of its rows."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = out.glob("*.whl")
    return found


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.startswith("foreword/")}
    files = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert inside == {path.relative_to(SOURCE.parent).as_posix() for path in files}
    assert "foreword/py.typed" in inside, "type checkers read the package's own annotations"
    beside = {name.partition(".dist-info/")[2] for name in set(names) - inside}
    assert beside == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_it_says_all_that_it_needs(wheel: Path) -> None:
    """Whatever a module imports comes with a package that is named, as a dependency or in an extra."""
    metadata = zipfile.ZipFile(wheel).read(next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA")))
    needs = re.findall(r"^Requires-Dist: ([A-Za-z0-9._-]+)(.*)$", metadata.decode(), re.MULTILINE)
    named = {plain(name) for name, more in needs if "extra == 'dev'" not in more}
    always = {plain(name) for name, more in needs if "extra ==" not in more}
    gives = importlib.metadata.packages_distributions()
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for top in {module.split(".")[0] for module in modules} - {"foreword", "", *sys.stdlib_module_names}:
                packages = {plain(package) for package in gives.get(top, [top])}
                late = node not in tree.body or path.parent.name in OF_AN_EXTRA
                assert packages & ((named if late else always) | ALONG), f"{path} imports {top}"


ALONG = {"click", "huggingface-hub", "markupsafe", "pydantic-core", "starlette"}
"""Come with typer, transformers, jinja2, pydantic and fastapi, and are imported for their sake."""
OF_AN_EXTRA = {"vllm"}
"""Folders that nothing opens without their extra."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
def test_the_demo_runs_from_it_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which sees this one's dependencies and not what this one has of Foreword."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--python", str(python), "install"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
    [packages] = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not read
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import sys, foreword; print(foreword.__file__); print(*sys.path, sep='\\n')"
    file, *path = run(str(python), "-c", where).splitlines()
    assert Path(file).is_relative_to(tmp_path / "env")
    assert not [place for place in path if place and (Path(place) / "foreword").is_dir() and place != str(packages)]
    foreword = str(tmp_path / "env" / "bin" / "foreword")
    assert "tune" in run(foreword, "--help")
    assert "movie-sentiment-prompt-tuning:1" in run(str(python), "-c", FEW_ROWS)
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    assert "movie-sentiment-p-tuning" in run(foreword, "prompts", "list")
