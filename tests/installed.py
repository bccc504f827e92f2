"""Packages that look installed: a module and its metadata in a folder on `sys.path`, as pip leaves them."""

import importlib
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    code: str,
    entry_points: Mapping[str, Mapping[str, str]],
) -> None:
    """Lay `package` into `folder`, whose module of that name holds `code`; `entry_points` are its names by group."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{package}.py").write_text(textwrap.dedent(code))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in names.items())
        for group, names in entry_points.items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, package, raising=False)
    importlib.invalidate_caches()
