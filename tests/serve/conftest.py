"""Servers that end with their test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import House, Start, launch


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server; takes what `launch` takes."""
    running: list[House] = []

    def start(**options: Any) -> House:
        running.append(launch(tmp_path / "table", **options))
        return running[-1]

    yield start
    for house in running:
        house.stop()


@pytest.fixture
def house(start: Start) -> House:
    """A server without keys."""
    return start()
