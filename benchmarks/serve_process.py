"""A `foreword serve` process with a table of its own, its memory second by second, and how it ends. Knows no load."""

import asyncio
import json
import re
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from foreword.prompts import Prompt
from foreword.table import PromptTable

START = "from foreword.cli import main; main()"
READY_SECONDS = 120
GRACE_SECONDS = 20


class Server:
    """Up while it is entered. The same backbone, dtype and number of threads as here."""

    def __init__(self, prompts: Sequence[Prompt], backbone: str, dtype: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        table = PromptTable.open(folder / "prompts.db")
        for prompt in prompts:
            table.put(prompt, alias="prod")
        self._log_path = folder / "log"
        self._log = self._log_path.open("w")
        options = ["--port", "0", "--backbone", backbone, "--dtype", dtype, "--table", str(folder / "prompts.db")]
        self.process = psutil.Popen(
            [sys.executable, "-c", START, "serve", *options, "--grace", str(GRACE_SECONDS)], stderr=self._log
        )
        self.url = ""
        self.rss: list[int] = []
        """Bytes, once a second from the moment it is ready."""

    async def __aenter__(self) -> Self:
        until = time.monotonic() + READY_SECONDS
        while not (ready := [line for line in self.lines() if line.get("event") == "ready"]):
            if not self.process.is_running() or self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server has not started:\n{self._log_path.read_text()[-2000:]}")
            await asyncio.sleep(0.1)
        self.url = ready[0]["address"][0]
        self._watch = asyncio.create_task(self._weigh())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()
        self._folder.cleanup()

    @property
    def running(self) -> bool:
        """Whether it has not crashed."""
        return self.process.poll() is None

    async def stop(self) -> int | None:
        """Ask it to end; its exit code, None where it does not within the grace time."""
        self.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS + 10
        while self.running and time.monotonic() < until:
            await asyncio.sleep(0.1)
        code: int | None = self.process.poll()
        return code

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        found = []
        for line in self._log_path.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                found.append(json.loads(line))
        return found

    async def gauges(self) -> dict[str, float]:
        """What /metrics tells without labels, by name without prefix."""
        text = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"{self.url}/metrics", timeout=30).read().decode()
        )
        return {name: float(value) for name, value in re.findall(r"^foreword:(\w+) ([\d.e+-]+)$", text, re.MULTILINE)}

    async def _weigh(self) -> None:
        while self.running:
            self.rss.append(self.process.memory_info().rss)
            await asyncio.sleep(1)
