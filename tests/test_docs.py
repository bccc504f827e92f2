"""The guide's own examples, as a reader would follow them: in one empty folder, in order, on the real backbone."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "said"),
    [("prompts.md", "stays at version 1"), ("tuning.md", "came-back:1"), ("serving.md", '"probability"')],
)
def test_the_examples_of_a_page_run_as_written(
    page: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREWORD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    session: dict[str, Any] = {"__name__": "__main__"}  # Python's blocks go on from one another
    shown = ""
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert {kind for kind, _ in blocks} == {"sh", "python"}
    try:
        for kind, code in blocks:
            if kind == "python":
                exec(compile(code, page, "exec"), session)
                continue
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True)
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
            shown += done.stdout
    finally:
        for left in Path().glob("*.pid"):  # a server that a page has not come to stop
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(left.read_text()), signal.SIGKILL)
    assert said in shown, "the page promises this"
