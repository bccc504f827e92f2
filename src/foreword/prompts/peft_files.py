"""What stands in PEFT's two files, checked. Knows their fields, types and shapes; knows no prompts and no models.

Folders come from strangers: sizes, types, shapes and values are checked before they are used, and nothing is run.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, deserialize

from foreword.errors import ForewordError
from foreword.prompts.soft import MAX_VECTOR_BYTES
from foreword.prompts.template import MAX_VIRTUAL

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MAX_CONFIG = 100_000
"""Bytes of `adapter_config.json`; PEFT writes less than a thousand."""

PeftType = Literal["PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "CARTRIDGE"]
TOKENS: tuple[PeftType, ...] = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
PREFIXES: tuple[PeftType, ...] = ("PREFIX_TUNING", "CARTRIDGE")
TYPES = TOKENS + PREFIXES

SHARED, COLS, ROWS = "prompt_embeddings", "prefix_task_cols", "prefix_task_rows"


class Config(BaseModel):
    """The fields of `adapter_config.json` that say what the tensors are; others say how they were learned."""

    model_config = ConfigDict(strict=True, frozen=True)
    peft_type: PeftType
    num_virtual_tokens: int = Field(ge=1, le=MAX_VIRTUAL)
    base_model_name_or_path: str | None = None
    num_layers: int | None = None
    num_attention_heads: int | None = None
    token_dim: int | None = None
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    encoder_hidden_size: int | None = Field(None, ge=1, le=1_000_000)
    encoder_num_layers: int = Field(2, ge=1, le=1_000)
    prefix_projection: bool = False
    num_frozen_tokens: int = Field(1, ge=0)
    num_ranks: int = Field(1, ge=1, le=1_000_000)
    num_tasks: int = Field(1, ge=1, le=1_000_000)


def read_config(path: Path) -> Config:
    """`adapter_config.json`. Raises ForewordError that names file, field and value."""
    fields = read_json(path)
    _check_kind(fields, path)
    try:
        config = Config.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(path, str(first["loc"][0]), fields.get(str(first["loc"][0])), first["msg"]) from error
    if config.num_frozen_tokens > config.num_virtual_tokens and config.peft_type == "CARTRIDGE":
        raise _wrong(path, "num_frozen_tokens", config.num_frozen_tokens, "more than there are virtual tokens")
    return config


def _check_kind(fields: Mapping[str, Any], path: Path) -> None:
    """Refuse what is no prompt, or none of a decoder-only language model, before its fields are looked at."""
    kind, task = fields.get("peft_type"), fields.get("task_type")
    if kind not in TYPES:
        reason = "context-aware prompt tuning is not read here" if kind == "CPT" else "that is not a prompt"
        raise ForewordError(
            f"{str(path)!r}, 'peft_type': {shown(kind)}, {reason}; what can be read: {', '.join(TYPES)}"
        )
    if task == "SEQ_2_SEQ_LM" or fields.get("num_transformer_submodules") not in (None, 1):
        field = "task_type" if task == "SEQ_2_SEQ_LM" else "num_transformer_submodules"
        raise ForewordError(
            f"{str(path)!r}, {field!r}: {shown(fields[field])}, a prompt for an encoder and a decoder; "
            "only prompts of decoders are exchanged with PEFT: give one that was learned with task_type 'CAUSAL_LM'"
        )
    if task not in (None, "CAUSAL_LM"):
        raise ForewordError(
            f"{str(path)!r}, 'task_type': {shown(task)}, a prompt for another head than a language model's; "
            "give one that was learned with task_type 'CAUSAL_LM'"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of moderate size."""
    data = read_bytes(path, MAX_CONFIG)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ForewordError(f"{str(path)!r} is no JSON: {error}; save the adapter again with PEFT") from error
    if not isinstance(fields, dict):
        raise ForewordError(f"{str(path)!r} holds no JSON object; save the adapter again with PEFT")
    return fields


def read_weights(folder: Path) -> bytes:
    """`adapter_model.safetensors` as it is."""
    if not os.path.lexists(folder / WEIGHTS) and os.path.lexists(folder / PICKLE):
        raise ForewordError(
            f"{str(folder / PICKLE)!r} is a pickle, which can run anything when it is read; load it in PEFT and "
            f"save it again as {WEIGHTS!r} (safe_serialization=True)"
        )
    return read_bytes(folder / WEIGHTS, MAX_VECTOR_BYTES)


def read_tensors(data: bytes, path: Path, config: Config) -> dict[str, np.ndarray]:
    """float32, finite, and of shapes that agree with the config and with each other."""
    try:
        found: dict[str, dict[str, Any]] = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise ForewordError(f"{str(path)!r} is no safetensors file: {error}; fetch or save it again") from error
    names = [SHARED, COLS, ROWS] if config.peft_type == "MULTITASK_PROMPT_TUNING" else [SHARED]
    for name in [*names, *found]:
        if name not in found:
            raise ForewordError(f"{str(path)!r} lacks the tensor {name!r}; fetch the adapter again")
        if name not in names:  # a retrained head or embedding matrix: without it the prompt means something else
            raise ForewordError(
                f"{str(path)!r} holds the tensor {name!r:.80}, which is no part of a prompt; "
                "learn it without 'modules_to_save' and with the backbone's own vocabulary"
            )
    P, T, r = config.num_virtual_tokens, config.num_tasks, config.num_ranks
    width = found[SHARED]["shape"][-1] if found[SHARED]["shape"] else 0
    if config.token_dim is not None:
        wide = 2 * (config.num_layers or 0) if config.peft_type in PREFIXES else 1
        width = wide * config.token_dim or width  # without num_layers nothing can be said here
    shapes = {SHARED: [P, width], COLS: [T, P, r], ROWS: [T, r, width]}
    for name in names:
        if (shape := found[name]["shape"]) != shapes[name] or 0 in shape:
            raise ForewordError(
                f"{str(path)!r}: the tensor {name!r} is {shape} where {CONFIG!r} says {shapes[name]}; "
                "fetch the adapter again"
            )
    tensors = {name: _float32(found[name], name, path) for name in names}
    for name, tensor in tensors.items():
        check_finite(tensor, repr(name), path)
    return tensors


def _float32(tensor: Mapping[str, Any], name: str, path: Path) -> np.ndarray:
    """numpy has no bfloat16: it is the upper half of a float32."""
    match tensor["dtype"]:
        case "F32":
            array = np.frombuffer(tensor["data"], "<f4")
        case "F16":
            array = np.frombuffer(tensor["data"], "<f2")
        case "BF16":
            array = (np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
        case other:
            raise ForewordError(
                f"{str(path)!r}: the tensor {name!r} is {other}; save it as F32, BF16 or F16, which can be read here"
            )
    return array.astype(np.float32).reshape(tensor["shape"])


def check_finite(array: np.ndarray, name: str, path: Path) -> None:
    if not np.isfinite(array).all():
        raise ForewordError(f"{str(path)!r}: {name} holds NaN or infinity; learn the prompt again")


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of an ordinary file, also behind a link, as hub caches have them; a pipe or a device is not waited for.

    Nothing that was read is ever shown: a link may lead to a file that a stranger should not see.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ForewordError(f"{str(path)!r} is no ordinary file; fetch the adapter again")
            if status.st_size > limit:
                raise ForewordError(
                    f"{str(path)!r} has {status.st_size:,} bytes, {limit:,} at most: no prompt has more"
                )
            return file.read(status.st_size)
    except FileNotFoundError:
        raise ForewordError(f"no file {str(path)!r}; give the folder in which PEFT saved the prompt") from None
    except (OSError, ValueError) as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error}") from error


def _wrong(path: Path, field: str, value: object, reason: str) -> ForewordError:
    return ForewordError(f"{str(path)!r}, {field!r}: {shown(value)}, {reason}; save the adapter again with PEFT")


def shown(value: object) -> str:
    """A value for an error's line; lists and objects may be too deep to be written out."""
    return f"{value!r:.80}" if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
