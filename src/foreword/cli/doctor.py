"""`foreword doctor`: checks this machine, or shows a run, and says what to fix and how."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from foreword.cli.console import print_json
from foreword.cli.examine import examine
from foreword.cli.shared import Json, TableUrl
from foreword.errors import ForewordError
from foreword.files import cache_dir, data_dir

MIN_FREE_GB = 3.0
"""The free disk space, in GB, that the default backbone and some runs need."""


def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a run, in progress or finished. [default: check the machine]")
    ] = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Check machine, libraries, caches and prompt table; exit code 1 if there is something to fix.

    With the folder of a run, show that: its settings, its learning curve, and warnings about it.
    """
    if run is not None:
        examine(run, as_json)
        return
    facts = dict(_facts())
    problems = list(_problems(table))
    if as_json:
        print_json({"facts": facts, "problems": problems})
    else:
        for name, value in facts.items():
            print(f"{name:12} {value}")
        for problem in problems:
            print(f"\nproblem: {problem}")
        print("" if problems else "\nNothing is wrong.")
    if problems:
        raise SystemExit(1)


def _facts() -> Iterator[tuple[str, str]]:
    import torch

    from foreword.backbone import BUILT_IN_BACKBONES, best_dtype, built_in_path

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    yield "machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB"
    yield "device", torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    yield "dtype", f"{str(best_dtype(device)).removeprefix('torch.')} unless --dtype says otherwise"
    for package in ("foreword", "torch", "transformers"):
        yield package, importlib.metadata.version(package)
    for name in BUILT_IN_BACKBONES:
        cached = os.path.isdir(built_in_path(name))
        yield "backbone", f"{name}: {'in the cache' if cached else 'not fetched yet; the first use fetches 93 MB'}"
    yield "cache", str(cache_dir())
    yield "data", str(data_dir())


def _problems(table: str | None) -> Iterator[str]:
    from foreword.table import find_table

    for folder in (cache_dir(), data_dir()):
        existing = next(
            path for path in (folder, *folder.parents) if os.path.exists(path)
        )  # exists() is False if it may not look
        if not os.access(existing, os.W_OK):
            yield f"{str(existing)!r} cannot be written; set FOREWORD_CACHE and FOREWORD_HOME to folders of your own"
        elif shutil.disk_usage(existing).free < MIN_FREE_GB * 1e9:
            yield f"{str(existing)!r} has less than {MIN_FREE_GB:g} GB free; delete something or move the folder"
    try:
        find_table(table).list(limit=1)
    except ForewordError as error:
        yield str(error)


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
