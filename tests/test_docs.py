"""The site's own examples, as a reader would follow them: page after page in one folder, on the real backbone."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foreword.prompts.template import FILTERS, TESTS

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = ("sh", "python")
NOT_RUN = ("", "console", "ini", "json", "text", "toml", "yaml")
"""Files, output, and commands that cannot run here (`console`): for a GPU, a database, systemd, programs of others."""
WAYS = {
    "prompts": (
        ("tutorial/first-prompt.md", "reply:2"),
        ("how-to/templates.md", "billing"),
        ("how-to/versions.md", "reply:2"),
        ("how-to/programs.md", ""),
        ("how-to/typed-answers.md", '"team"'),
        ("how-to/chains.md", '"steps"'),
        ("how-to/promote.md", "stays at version 1"),
        ("how-to/optimize.md", "review"),
        ("how-to/share.md", "team-tickets"),
        ("how-to/import-export.md", "from-langchain"),
    ),
    "tuning": (
        ("tutorial/first-soft-prompt.md", "tickets-prompt-tuning"),
        ("how-to/own-data.md", ""),
        ("how-to/choose-a-method.md", "tickets-prefix-tuning"),
        ("how-to/plan-a-run.md", "tickets-swept"),
        ("how-to/read-curves.md", "curves.jsonl"),
        ("how-to/many-tasks.md", "tickets-too-multitask"),
        ("how-to/compare.md", "tickets-prefix-tuning"),
        ("how-to/peft.md", "came-back:1"),
    ),
    "serving": (
        ("tutorial/notebook-to-server.md", '"probability"'),
        ("how-to/serve.md", '"probability"'),
        ("how-to/clients.md", "tive"),
        ("how-to/keys.md", "operator"),
        ("how-to/systemd.md", ""),
        ("how-to/engine.md", ""),
    ),
}
"""Pages in the order in which they go on from one another, each with what its commands must show."""


def pages() -> list[str]:
    """All that are written by hand; the log is a notebook."""
    ignored = (DOCS.parent / ".gitignore").read_text().splitlines()
    found = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    return [page for page in found if f"docs/{page}" not in ignored and page != "LOG.md"]


def blocks(page: str) -> list[tuple[str, str]]:
    """Its fenced blocks: language and text."""
    return FENCE.findall((DOCS / page).read_text())


def test_what_a_page_asks_a_reader_to_run_is_run_here() -> None:
    run = [page for way in WAYS.values() for page, _ in way]
    for page in pages():
        kinds = {kind for kind, _ in blocks(page)}
        assert kinds <= {*RUN, *NOT_RUN}, page
        assert (page in run) == bool(kinds & set(RUN)), f"{page} has blocks that no test runs, or a test without blocks"
    assert set(run) <= set(pages())


def test_a_page_that_goes_on_from_another_says_so() -> None:
    for way in WAYS.values():
        for page, _ in way[1:]:
            opening = (DOCS / page).read_text()[:600]
            assert re.search(r"This page (goes on|stands alone)|is running", opening), page


def test_the_template_language_is_told_whole() -> None:
    text = (DOCS / "reference" / "template-language.md").read_text()
    assert {*FILTERS, *TESTS} <= set(re.findall(r"`(\w+)`", text))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_examples_run_as_written(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREWORD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    session: dict[str, Any] = {"__name__": "__main__"}  # Python's blocks go on from one another
    try:
        for page, said in WAYS[way]:
            assert said in run(page, session), f"{page} promises this"
    finally:
        for left in Path().glob("*.pid"):  # a server that a page has not come to stop
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(left.read_text()), signal.SIGKILL)


def run(page: str, session: dict[str, Any]) -> str:
    """Run a page's blocks in order; what its commands have shown."""
    shown = ""
    for kind, code in blocks(page):
        if kind == "python":
            exec(compile(code, page, "exec"), session)
        elif kind == "sh":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True)
            assert done.returncode == 0, f"{page}\n{code}\n{done.stdout}\n{done.stderr}"
            shown += done.stdout
    return shown
