"""A run's state on disk: one safetensors file, written in one step. Knows tensors and numbers; knows no training."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foreword.errors import ForewordError
from foreword.files import write_atomic
from foreword.tuning.curves import CurvePoint

ON_DISK = {"encoder": "encoder", "optimizer": "optimiser", "ema": "average", "best": "best", "start": "start"}
"""What the parts of a state are called in the file: as the first version called them."""


@dataclass(frozen=True)
class State:
    """All that a run needs to go on as if it had never stopped."""

    encoder: Mapping[str, Tensor]
    """An encoder's parameters and buffers, or LoRA's adapters."""
    optimizer: Mapping[str, Tensor]
    """AdamW's moments, named `PARAMETER.exp_avg` and so on."""
    ema: Mapping[str, Tensor]
    """fp32, the moving average of the vectors."""
    best: Mapping[str, Tensor]
    """fp32, the average that is kept: the best on dev so far, the latest of those that dev cannot tell apart."""
    start: Mapping[str, Tensor]
    """fp32, the vectors that it began with."""
    step: int
    best_step: int
    curve: tuple[CurvePoint, ...]
    losses: tuple[float, ...]
    """Of the steps since the curve's last point."""
    gradients: tuple[float, ...]
    """Norms of these steps' gradients, before they were clipped."""
    settings: Mapping[str, Any]
    """What the run was started with: a checkpoint is not resumed under other settings."""


def write(path: Path, state: State) -> None:
    """Replace the checkpoint at `path`; a crash or a full disk leaves the one before."""
    parts = {written: getattr(state, name) for name, written in ON_DISK.items()}
    tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    plain = {
        "step": state.step,
        "best_step": state.best_step,
        "curve": [asdict(point) for point in state.curve],
        "losses": list(state.losses),
        "gradients": list(state.gradients),
        "settings": dict(state.settings),
    }
    data = save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
        {"state": json.dumps(plain)},
    )
    write_atomic(path, data)


def read(path: Path) -> State:
    """Raises ForewordError when there is no checkpoint, or none that can be read."""
    if not os.path.isfile(path):
        raise ForewordError(f"no checkpoint {str(path)!r} to resume from; start without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            plain = json.loads(file.metadata()["state"])
        if type(plain["settings"]) is not dict or type(plain["settings"]["options"]) is not dict:
            raise TypeError("its settings are no form")
        return State(
            encoder=_part(tensors, "encoder."),
            optimizer=_part(tensors, "optimiser."),
            ema=_part(tensors, "average."),
            best=_part(tensors, "best."),
            start=_part(tensors, "start."),  # not kept by older runs
            step=plain["step"],
            best_step=plain["best_step"],
            curve=tuple(CurvePoint(**point) for point in plain["curve"]),
            losses=tuple(plain["losses"]),
            gradients=tuple(plain.get("gradients", ())),  # not kept by older runs
            settings=plain["settings"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ForewordError(
            f"{str(path)!r} is no checkpoint of a run: {error}; start again in another folder"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's state, by parameter name."""
    return {
        f"{names[parameter]}.{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def moments(names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """What AdamW keeps for these parameters, by name; each is as large as its parameter."""
    trained = {parameter: name for parameter, name in names.items() if parameter.requires_grad}
    return {f"{name}.{key}": parameter for parameter, name in trained.items() for key in ("exp_avg", "exp_avg_sq")}


def check_shapes(folder: Path, part: str, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises ForewordError where a part of a checkpoint lacks a tensor, has one more, or one of another shape."""
    theirs, ours = ({name: tuple(tensor.shape) for name, tensor in named.items()} for named in (saved, own))
    for name in sorted({*theirs, *ours}):
        if theirs.get(name) != ours.get(name):
            raise ForewordError(
                f"the checkpoint in {str(folder)!r} is damaged: {part}.{name} has the shape {theirs.get(name)}, not "
                f"{ours.get(name)}; start again in another folder"
            )


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], saved: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`."""
    for parameter, name in names.items():
        optimizer.state[parameter] = {
            key.removeprefix(f"{name}."): _placed(value, parameter, key)
            for key, value in saved.items()
            if key.rpartition(".")[0] == name
        }


def _placed(value: Tensor, parameter: Tensor, key: str) -> Tensor:
    """A copy beside its parameter; AdamW keeps its step count on the CPU."""
    return value.clone() if key.endswith(".step") else value.to(parameter.device, copy=True)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
