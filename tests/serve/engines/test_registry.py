"""Engines by name: built in, or added by a package that is installed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foreword.cli.app import app
from foreword.errors import ForewordError, UsageError
from foreword.registry import Registry
from foreword.serve.engines import registry
from foreword.serve.engines.registry import ENGINES, make_engine

PACKAGE = """
from foreword.errors import UsageError

class Engine:
    context = 77

def make(backbone, dtype, options, listener):
    listener.say(f"{backbone} in {dtype} with {options}")
    if options.get("wrong"):
        raise UsageError("acme has no option 'wrong'")
    return f"part of {backbone}", Engine()

not_callable = 3
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an installed package whose engines are `acme`, two that are broken, and a second `local`."""
    (tmp_path / "acme_engine.py").write_text(PACKAGE)
    about = tmp_path / "acme_engine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-engine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[foreword.engines]\nacme = acme_engine:make\nbroken = acme_engine:nothing\n"
        "wrong = acme_engine:not_callable\nlocal = acme_engine:make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    built_in = {name: ENGINES[name] for name in ("local", "vllm")}
    monkeypatch.setattr(registry, "ENGINES", Registry("foreword.engines", built_in, callable))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_engine", raising=False)
    return tmp_path


def serve(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["serve", "--port", "0", *arguments])


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str, heading: str = "") -> None:
        self.said.append(heading + text)

    def stage(self, *_: Any, **__: Any) -> None: ...

    def step(self, *_: Any, **__: Any) -> None: ...


@pytest.mark.usefixtures("acme")
def test_an_installed_package_adds_an_engine_that_is_imported_when_it_is_asked_for() -> None:
    registry.check_engine("acme")
    assert "acme_engine" not in sys.modules
    listener = Heard()
    part, engine = make_engine("acme", "tiny", "float32", {"slots": 3}, listener)
    assert (part, engine.context) == ("part of tiny", 77)
    assert listener.said == ["tiny in float32 with {'slots': 3}"]
    with pytest.raises(UsageError, match="acme has no option"):
        make_engine("acme", "tiny", options={"wrong": 1})


@pytest.mark.usefixtures("acme")
def test_a_package_that_is_broken_is_named_and_harms_no_other() -> None:
    for name in ("broken", "wrong"):
        with pytest.raises(ForewordError, match="'acme-engine'"):
            make_engine(name, "tiny")
    assert make_engine("acme", "tiny")[1].context == 77
    assert registry.ENGINES["local"] is ENGINES["local"], "what is built in cannot be replaced"


@pytest.mark.usefixtures("acme")
def test_a_name_that_nobody_has_lists_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="'sglang': choose one of acme, broken, local, vllm, wrong"):
        make_engine("sglang", "tiny")
    said = serve("--engine", "sglang")
    assert (said.exit_code, "acme, broken, local, vllm, wrong" in " ".join(said.stderr.split())) == (2, True)


@pytest.mark.usefixtures("acme")
def test_the_command_line_takes_it_with_options_of_its_own() -> None:
    said = serve("--engine", "acme", "--backbone", "tiny", "--engine-option", "wrong=true")
    assert said.exit_code == 2
    assert "tiny in auto with {'wrong': True}" in " ".join(said.stderr.split())
    assert "acme has no option 'wrong'" in " ".join(said.stderr.split())


def test_the_local_engine_has_no_options() -> None:
    with pytest.raises(UsageError, match="'max_num_seqs'"):
        make_engine("local", "no-such-model", options={"max_num_seqs": 8})


def test_engines_are_not_imported_before_they_are_asked_for() -> None:
    """Nor any server: a process of vLLM's imports the connector below this package."""
    code = (
        "import sys; from foreword.serve import check_engine; check_engine('vllm'); check_engine('local');"
        "print(*(name for name in sys.modules if name.startswith(('vllm', 'fastapi', 'foreword.serve'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {
        "foreword.serve", "foreword.serve.engines", "foreword.serve.engines.registry", "foreword.serve.engines.seam",
    }  # fmt: skip
