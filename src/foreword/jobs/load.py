"""Loads a task or a model by name and tells the listener what was loaded. Knows no table."""

from pathlib import Path

import torch
import transformers

from foreword.backbone import Backbone, LanguageModel, RemoteBackbone
from foreword.errors import UsageError
from foreword.listen import Listener
from foreword.tasks import Task

DEFAULT_BACKBONE = "smollm2-135m"
"""The name of the built-in backbone that jobs use by default."""


def load_task(path: Path, listener: Listener, seed: int | None = None) -> Task:
    """Load a task file and tell its sizes and what was left out. `seed` replaces the seed of the task's split."""
    task = Task.load(path, seed, listener)
    listener.say(
        f"Task {task.name}: {len(task.train):,} rows to train on, {len(task.dev):,} dev, {len(task.test):,} test."
    )
    for note in task.notes:
        listener.say(f"  {note}")
    return task


def load_backbone(name: str, dtype: str, listener: Listener) -> Backbone:
    """Load a local backbone and tell its size, dtype and device. Raises UsageError if `name` is a remote one."""
    begin_loading(name, listener)
    backbone = Backbone.load(name, dtype, listener)
    millions = sum(p.numel() for p in backbone.model.parameters()) / 1e6
    where = f"{torch.get_num_threads()} CPU threads" if backbone.device.type == "cpu" else torch.cuda.get_device_name()
    listener.say(f"Backbone {backbone.name}: {millions:.0f} M frozen weights, {dtype_name(backbone.dtype)}, {where}.")
    return backbone


def begin_loading(name: str, listener: Listener) -> None:
    """Silence transformers and begin the stage of loading a local backbone. Raises UsageError for a remote one."""
    if name.startswith("openai:"):
        raise UsageError(
            f"{name!r} is a remote model: it has no vectors to learn and shows no tokens; give a local backbone"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    listener.stage(f"loading {name}", 0, 0)


def load_model(name: str, dtype: str, listener: Listener) -> LanguageModel:
    """Load a local backbone, or parse the address of a remote one (`openai:URL#model`)."""
    return RemoteBackbone.parse(name) if name.startswith("openai:") else load_backbone(name, dtype, listener)


def dtype_name(dtype: object) -> str:
    """Return the name of a torch dtype: `float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
