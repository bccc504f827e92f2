"""A task and a model by name, loaded, with a word on what came of it."""

from pathlib import Path

import torch
import transformers

from foreword.backbone import Backbone, LanguageModel, RemoteBackbone
from foreword.errors import UsageError
from foreword.listen import Listener
from foreword.tasks import Task

DEFAULT_BACKBONE = "smollm2-135m"


def load_task(path: Path, listener: Listener, seed: int | None = None) -> Task:
    """The task; says what was left out of its data. `seed` draws other splits than the task's own."""
    task = Task.load(path, seed, listener)
    listener.say(
        f"Task {task.name}: {len(task.train):,} rows to train on, {len(task.dev):,} dev, {len(task.test):,} test."
    )
    for note in task.notes:
        listener.say(f"  {note}")
    return task


def load_backbone(name: str, dtype: str, listener: Listener) -> Backbone:
    """A local backbone; says what was loaded and how it will compute. Raises UsageError where `name` is remote."""
    quieten(name, listener)
    backbone = Backbone.load(name, dtype, listener)
    millions = sum(p.numel() for p in backbone.model.parameters()) / 1e6
    where = f"{torch.get_num_threads()} CPU threads" if backbone.device.type == "cpu" else torch.cuda.get_device_name()
    listener.say(f"Backbone {backbone.name}: {millions:.0f} M frozen weights, {short(backbone.dtype)}, {where}.")
    return backbone


def quieten(name: str, listener: Listener) -> None:
    """Before a local backbone is loaded: transformers is to print nothing. Raises UsageError for a remote one."""
    if name.startswith("openai:"):
        raise UsageError(
            f"{name!r} is a remote model: it neither learns vectors nor tells tokens; give a local backbone"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    listener.stage(f"loading {name}", 0, 0)


def load_model(name: str, dtype: str, listener: Listener) -> LanguageModel:
    """A local or a remote backbone."""
    return RemoteBackbone.parse(name) if name.startswith("openai:") else load_backbone(name, dtype, listener)


def short(dtype: object) -> str:
    """`float32` of `torch.float32`."""
    return str(dtype).removeprefix("torch.")
