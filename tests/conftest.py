"""What all tests share: caches and tables of their own, and one thread for tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's prompt table; the cache of fetched models is shared, as it is for users."""
    monkeypatch.setenv("FOREWORD_HOME", str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads cost tiny models more than they give."""
    import torch

    before = torch.get_num_threads()
    if request.node.get_closest_marker("slow") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
