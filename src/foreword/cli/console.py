"""Shows progress on stderr and prints results on stdout. Knows rich; knows no models."""

import json
import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

    from foreword.listen import Progress

QUIET_SECONDS = 15.0
"""The seconds between two lines of progress if stderr is not a terminal."""


class Display:
    """A listener that shows sentences and one live progress bar; without a terminal, a plain line now and then."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self.console = Console(stderr=True, highlight=False, markup=False)  # names and paths may hold brackets
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
        )
        live = self.console.is_terminal
        self.bars = Bars(*columns, console=self.console, transient=True, disable=not live)
        self._stage = ""
        self._bar: TaskID | None = None
        self._printed_at = 0.0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, text: str, heading: str = "") -> None:
        """Print a sentence after its `heading` in bold."""
        from rich.text import Text

        self._remove_bar()
        self.console.print(Text.assemble((heading, "bold"), text), soft_wrap=True)

    def stage(self, name: str, done: int, total: int, figures: str = "") -> None:
        """Show that `done` of `total` rows, bytes or steps of a stage are done, with `figures` beside them."""
        if name != self._stage:
            self._remove_bar()
            self._stage, self._printed_at = name, time.monotonic()
            self._bar = self.bars.add_task(name, total=total or None, figures="")
        if self._bar is not None:
            self.bars.update(self._bar, completed=done, total=total or None, figures=figures)
        if not self.console.is_terminal and time.monotonic() - self._printed_at > QUIET_SECONDS:
            self._printed_at = time.monotonic()
            self.console.print(f"  {name}: {done:,} of {total:,}{figures and ', ' + figures}")

    def step(self, name: str, progress: "Progress") -> None:
        """Show a step of the training run `name`: loss, dev score, rows per second and time left."""
        dev = "" if progress.dev is None else f", dev {progress.dev:.3f} at {progress.dev_step:,}"
        left = str(timedelta(seconds=round(progress.seconds_left))).removeprefix("0:")
        figures = f"loss {progress.loss:.3f}{dev}, {progress.rows_per_second:.0f} rows/s, {left} left"
        self.stage(name, progress.step, progress.steps, figures)

    def _remove_bar(self) -> None:
        if self._bar is not None:
            self.bars.remove_task(self._bar)
        self._bar, self._stage = None, ""


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_table(table: Any) -> None:
    """Print a rich table on stdout, 150 characters wide if that is not a terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 150
    console.print(table)
