"""On what a run runs: versions and machine, as far as they can change its numbers or its time. Knows no settings."""

import importlib.metadata
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from foreword.backbone import Backbone


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
