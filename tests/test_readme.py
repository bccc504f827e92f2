"""The README's own example, as a reader would follow it: files, commands, Python, on the real backbone."""

import contextlib
import io
import os
import random
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foreword.table import PromptTable

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SAID = {
    "billing": [
        "I was charged for {}.",
        "My invoice for {} is wrong.",
        "Please refund {}.",
        "The price of {} went up.",
    ],
    "technical": ["{} crashes.", "I cannot log in to {}.", "{} shows an error.", "The screen of {} stays black."],
}
THINGS = [
    f"the {kind} {what}" for kind in ("new", "old", "small", "big", "blue") for what in ("app", "plan", "shop", "chat")
]


def block(start: str, language: str = "") -> str:
    found = re.search(rf"```{language}\n({re.escape(start)}.*?)```", README, re.DOTALL)
    assert found, f"the README has no block that begins with {start!r}"
    return found[1]


@pytest.mark.slow
def test_the_example_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [(team, said, thing) for team, lines in SAID.items() for said in lines for thing in THINGS]
    rows = [f"{said.format(thing)},{team}" for team, said, thing in random.Random(0).sample(pairs, 80)]
    Path("tickets.csv").write_text("text,team\n" + "\n".join(rows) + "\n")
    Path("tickets.yaml").write_text(block("name: tickets", "yaml"))
    Path("tickets.prompt").write_text(block("---\nname: tickets"))

    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    said = {}
    for line in block("foreword prompts lint", "sh").splitlines():
        command = [str(Path(sys.executable).with_name("foreword")), *shlex.split(line)[1:]]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        said[" ".join(command[1:3])] = done.stdout
    assert "tickets-prompt-tuning:1" in said["prompts list"]
    assert '"value": "billing"' in said["run tickets-prompt-tuning@prod"]
    assert Path("report.html").stat().st_size > 10_000
    assert (tmp_path / "runs" / "tickets" / "checkpoint.safetensors").is_file()

    session: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(block("import foreword", "python"), session)
    verdict, called = printed.getvalue().strip().splitlines()
    assert verdict.endswith(".")
    assert called == session["model"].generate(session["run"].prompt, text="I was charged twice.") == "billing"
    assert "staging" in PromptTable.open().list("tickets-prompt-tuning")[0].aliases


def test_it_can_be_read_in_a_few_minutes() -> None:
    assert len(README.encode()) <= 8_000


def test_its_links_lead_to_what_is_there() -> None:
    for place in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / place).exists(), place


def test_its_picture_shows_the_figures_of_its_table() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "picture.py"))["picture"](README)
    assert (ROOT / "docs" / "demo.svg").read_text() == drawn, "run scripts/picture.py"
