"""A run's folder while the run goes on: one process holds it, and writes what the run began with and how far it is.

`record` reads such folders. Knows files; knows no training.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.files import locked, write_atomic
from foreword.tuning import checkpoint
from foreword.tuning.progress import ProgressFile, told

FILES = ("run.json", "checkpoint.safetensors", "curves.jsonl", "progress.json")
"""What a run writes."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process holds."""

    path: Path
    identity: Mapping[str, Any]
    """What the run was started with."""
    saved: checkpoint.State | None
    """Where a resumed run goes on."""
    progress: ProgressFile

    def save(self, state: checkpoint.State) -> None:
        """Replace the checkpoint, then the curve; a kill between the two leaves the curve a point behind."""
        checkpoint.write(self.path / "checkpoint.safetensors", state)
        lines = "".join(json.dumps(asdict(point)) + "\n" for point in state.curve)
        write_atomic(self.path / "curves.jsonl", lines.encode())


def id_of(identity: Mapping[str, Any]) -> str:
    """A run's id follows from what it was started with."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


@contextmanager
def opened(
    path: Path, identity: Mapping[str, Any], backbone: Backbone, *, resume: bool, command: str | None = None
) -> Iterator[RunFolder]:
    """Hold the folder `path` for a run that begins, or goes on.

    Raises ForewordError where another process holds it, where it holds a run that is not to be resumed, or where there
    is none to resume or one with another `identity`.
    """
    file = path / "checkpoint.safetensors"
    if resume and not os.path.isfile(file):
        raise ForewordError(f"no checkpoint {str(file)!r} to resume from; start without --resume")
    with locked(path, "tuning", FILES):
        saved = checkpoint.read(file) if resume else None
        if saved is None:
            refuse_a_run(path)
        else:
            _check_same(saved.settings, identity, path)
        _write_run_file(path, id_of(identity), identity, environment(backbone), command, resumed=saved is not None)
        with told(path, "running", "finished") as progress:
            yield RunFolder(path, identity, saved, progress)


def refuse_a_run(path: Path) -> None:
    """Raises ForewordError where the folder `path` holds a run."""
    if (path / "checkpoint.safetensors").exists():
        raise ForewordError(f"{str(path)!r} holds a run already; add --resume to go on, or choose another folder")


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], place: Path) -> None:
    """A run goes on only with what it was started with, or with more steps."""
    old, new = ({**settings, **settings["options"], "options": None} for settings in (before, now))
    if new["steps"] > old.get("steps", 0):
        old["steps"] = new["steps"]
    changed = [f"{name} {old.get(name)!r}, now {new[name]!r}" for name in new if new[name] != old.get(name)]
    if "added_to" in old and "added_to" not in new:
        changed.append(f"added to the run {old['added_to']}, now to none")
    if changed:
        raise ForewordError(
            f"{str(place)!r} was started with other settings ({'; '.join(changed)}); give the same, or a new folder"
        )


def _write_run_file(
    folder: Path, run_id: str, identity: Mapping[str, Any], environment: Mapping[str, Any], command: str | None,
    resumed: bool,
) -> None:  # fmt: skip
    """Write `run.json`. Of a resumed run the first environment and command stay, with the latest beside them."""
    path = folder / "run.json"
    before = _before(path) if resumed else {"environment": environment, "command": command}
    document = {"id": run_id, **identity}
    for name, now in (("environment", environment), ("command", command)):
        document[name] = before.get(name)
        if now not in (None, document[name]):
            document[f"latest_{name}"] = now
    write_atomic(path, json.dumps(document, indent=2).encode())


def _before(path: Path) -> dict[str, Any]:
    """What can be read of it: a run goes on from its checkpoint, whatever has become of the file that describes it."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def environment(backbone: Backbone) -> dict[str, Any]:
    """For `run.json`. Another processor, another number of threads or another version may round differently."""
    on_cpu = backbone.device.type == "cpu"
    return {
        **{package: importlib.metadata.version(package) for package in ("foreword", "torch", "transformers")},
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "device": "cpu" if on_cpu else torch.cuda.get_device_name(backbone.device),
    }


def _processor() -> str:
    """Linux tells the model's name in one file only; elsewhere, and on ARM, what Python knows."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
