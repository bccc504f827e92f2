"""A soft prompt as the two files that PEFT keeps of it, read and written. Knows no models, and needs no PEFT.

Format: huggingface/peft 0.21, `adapter_config.json` and `adapter_model.safetensors`, which holds `prompt_embeddings`:
virtual tokens [P, D], or keys and values [P, 2 · L · H · head_dim], column ((2 · layer + kv) · H + head) · head_dim + i
with kv 0 for keys and 1 for values. Multitask prompt tuning adds `prefix_task_cols` [T, P, r] and `prefix_task_rows`
[T, r, D]; the virtual tokens of task t are prompt_embeddings ⊙ (cols[t] @ rows[t]).
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors.numpy import save

from foreword.errors import ForewordError, UsageError
from foreword.files import write_atomic
from foreword.prompts.formats import FORMATS
from foreword.prompts.peft_files import (
    COLS,
    CONFIG,
    PREFIXES,
    ROWS,
    SHARED,
    TOKENS,
    TYPES,
    WEIGHTS,
    Config,
    PeftType,
    check_finite,
    read_config,
    read_json,
    read_tensors,
    read_weights,
    shown,
)
from foreword.prompts.prompt import Prompt
from foreword.prompts.soft import SoftTokens

VERSION = "0.21.2"
"""The PEFT whose form is written."""

LEAD = re.compile(r"(?:\s*\{\{-|\{\{\+?)\s*virtual\s*\([^()]*\)\s*(-?)\}\}")
"""Virtual tokens where nothing stands before them; '-' takes blanks away on its side."""


@dataclass(frozen=True)
class Base:
    """What must be known of the backbone: PEFT's files name it, and do not say which one it is."""

    name: str
    path: str | None
    """Where it was loaded from, for `base_model_name_or_path`."""
    fingerprint: str
    dimension: int
    """D, the size of an input embedding."""
    heads: int
    """Attention heads of the queries."""
    cache: tuple[int, int, int]
    """L, H and head_dim: layers, KV heads, and the size of a key."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A prompt that PEFT learned, checked as far as it can be without its backbone."""

    folder: Path
    config: Config
    vectors: np.ndarray
    """[P, D] or [P, 2 · L · H · head_dim] float32, finite; of one task where there are several."""
    trained_parameters: int
    run: str

    @classmethod
    def read(cls, folder: Path, task: int | None = None) -> "Adapter":
        """Read a folder; `task` picks one of a multitask prompt's. Raises ForewordError that names file and field."""
        if not os.path.isdir(folder):
            raise ForewordError(f"{str(folder)!r} is no folder; give the one in which PEFT saved {CONFIG!r}")
        config, data = read_config(folder / CONFIG), read_weights(folder)
        tensors = read_tensors(data, folder / WEIGHTS, config)
        vectors = tensors[SHARED]
        if config.peft_type == "MULTITASK_PROMPT_TUNING":
            task = _task(task, config.num_tasks, folder)
            with np.errstate(all="ignore"):  # what overflows is refused in the next line
                vectors = vectors * (tensors[COLS][task] @ tensors[ROWS][task])
            check_finite(vectors, f"the product for task {task}", folder / WEIGHTS)
        elif task is not None:
            raise UsageError(f"--task {task}: {str(folder)!r} holds one prompt ({config.peft_type}); leave it out")
        numbers = sum(tensor.size for tensor in tensors.values())
        run = f"peft-{hashlib.sha256(data).hexdigest()[:12]}"
        return cls(folder, config, vectors, _trained(config, vectors.shape[1], numbers), run)

    @property
    def body(self) -> str:
        """The template that does what PEFT does: virtual tokens, then the whole text."""
        return f"{{{{ virtual({self.config.num_virtual_tokens}) }}}}{{{{ text }}}}"

    @property
    def method(self) -> str:
        """The same method under its name here."""
        config = self.config
        name = config.peft_type.lower().replace("_", "-")
        if config.peft_type == "P_TUNING" and config.encoder_reparameterization_type == "LSTM":
            return f"{name}-lstm"
        return f"{name}-mlp" if config.peft_type == "PREFIX_TUNING" and config.prefix_projection else name

    def soft(self, base: Base) -> SoftTokens:
        """The vectors, bound to `base`. Raises ForewordError where they do not fit it."""
        config, (L, H, size) = self.config, base.cache
        prefix = config.peft_type in PREFIXES
        if prefix:  # elsewhere PEFT ignores them, and users copy them from examples; here they say what a column is
            for field, value in (("num_layers", L), ("num_attention_heads", H), ("token_dim", H * size)):
                if getattr(config, field) not in (None, value):
                    self._refuse_shape(CONFIG, f"{field!r}: {getattr(config, field)}", value, base)
        P, width = self.vectors.shape
        expected = 2 * L * H * size if prefix else base.dimension
        if width != expected:
            self._refuse_shape(WEIGHTS, f"{SHARED!r}: [{P}, {width}]", f"[{P}, {expected}]", base)
        tensors = {"embeddings": self.vectors}
        if prefix:
            keys, values = self.vectors.reshape(P, L, 2, H, size).transpose(2, 1, 3, 0, 4).copy()
            tensors = {"keys": keys, "values": values}
        return SoftTokens(tensors, base.name, base.fingerprint, self.method, self.run, self.trained_parameters)

    def _refuse_shape(self, file: str, found: str, expected: object, base: Base) -> NoReturn:
        named = self.config.base_model_name_or_path
        hint = f"; the folder names {named!r:.200}" if named else ""
        raise ForewordError(
            f"{str(self.folder / file)!r}, {found} where the backbone {base.name!r} takes {expected}; "
            f"give the backbone that it was learned on (--backbone){hint}"
        )


def write(prompt: Prompt, folder: Path, base: Base, peft_type: str | None = None) -> PeftType:
    """Write `prompt` into `folder` as PEFT would; returns the type that was written.

    Without `peft_type` keys and values become PREFIX_TUNING, virtual tokens P_TUNING or PROMPT_TUNING by their method.
    Raises ForewordError for what PEFT cannot hold, and where `folder` holds anything but such a prompt.
    """
    soft = exportable(prompt)
    prefix = "keys" in soft.tensors
    kinds = PREFIXES if prefix else TOKENS
    default = "PREFIX_TUNING" if prefix else "P_TUNING" if soft.method.startswith("p-tuning") else "PROMPT_TUNING"
    chosen = next((kind for kind in kinds if kind == (peft_type or default)), None)
    if chosen is None:
        what = "keys and values" if prefix else "virtual tokens"
        raise UsageError(f"--type {peft_type!r}: prompt {prompt.name!r} holds {what}; choose one of {list(kinds)}")
    if soft.fingerprint != base.fingerprint or not soft.fits(base.dimension, base.cache):
        raise ForewordError(
            f"prompt {prompt.name!r} was tuned on {soft.backbone!r} ({soft.fingerprint[:12]}), this is {base.name!r} "
            f"({base.fingerprint[:12]}); give the backbone that it was tuned on (--backbone)"
        )
    _check_folder(folder)
    P = len(soft)
    if prefix:
        both = np.stack([soft.tensors["keys"], soft.tensors["values"]])  # [2, L, H, P, head_dim]
        tensors = {SHARED: both.transpose(3, 1, 0, 2, 4).reshape(P, -1).copy()}
    else:
        tensors = {SHARED: np.ascontiguousarray(soft.embeddings)}
    if chosen == "MULTITASK_PROMPT_TUNING":
        tensors |= {COLS: np.ones((1, P, 1), np.float32), ROWS: np.ones((1, 1, base.dimension), np.float32)}
    config = json.dumps(_fields(chosen, P, base), indent=2, sort_keys=True)
    write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, config.encode())
    return chosen


def exportable(prompt: Prompt) -> SoftTokens:
    """The prompt's vectors. Raises ForewordError, with the reason, for a prompt that PEFT cannot hold."""
    if prompt.soft is None:
        if prompt.virtual_tokens:
            raise ForewordError(f"prompt {prompt.name!r} has virtual tokens but no vectors yet; tune it first")
        raise ForewordError(
            f"prompt {prompt.name!r} is a hard prompt and PEFT holds virtual tokens only; "
            f"give a soft prompt, or another format: --format {'|'.join(FORMATS)}"
        )
    if "offsets" in prompt.soft.tensors:
        raise ForewordError(
            f"prompt {prompt.name!r} moves the words' own embeddings ('offsets', DePT), for which PEFT has no place; "
            "tune it with another method, such as prompt-tuning"
        )
    text_behind(prompt)
    return prompt.soft


def text_behind(prompt: Prompt) -> str:
    """The template behind the virtual tokens: what a caller of PEFT writes, spaces at its end taken off as always.

    Raises ForewordError where virtual tokens do not all open the template.
    """
    place = opened = 0
    body = prompt.body
    while found := LEAD.match(body, place):
        place, opened = found.end(), opened + 1
        if found[1]:
            place += len(body[place:]) - len(body[place:].lstrip())
    if not opened or opened < len(prompt.template.places):
        raise ForewordError(
            f"prompt {prompt.name!r} has virtual tokens behind other text, and PEFT puts them before all of it; "
            f"tune it with {{{{ virtual({prompt.virtual_tokens}) }}}} at the very beginning of its template"
        )
    return body[place:].rstrip(" ")


def _fields(peft_type: PeftType, P: int, base: Base) -> dict[str, Any]:
    """All fields of `adapter_config.json`, in PEFT's words and with its defaults."""
    L, H, size = base.cache
    prefix = peft_type in PREFIXES
    width = H * size if prefix else base.dimension
    text = {
        "prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }  # fmt: skip
    own: dict[PeftType, dict[str, Any]] = {
        "PROMPT_TUNING": text,
        "P_TUNING": {
            "encoder_dropout": 0.0, "encoder_hidden_size": width, "encoder_num_layers": 2,
            "encoder_reparameterization_type": "MLP",
        },
        "MULTITASK_PROMPT_TUNING": text | {
            "num_ranks": 1, "num_tasks": 1, "prompt_tuning_init_state_dict_path": None, "prompt_tuning_init_task": 0,
        },
        "PREFIX_TUNING": {"encoder_hidden_size": width, "init_weights": None, "prefix_projection": False},
        "CARTRIDGE": {"num_frozen_tokens": 1},
    }  # fmt: skip
    return own[peft_type] | {
        "auto_mapping": None, "base_model_name_or_path": base.path or None, "inference_mode": True,
        "modules_to_save": None, "num_attention_heads": H if prefix else base.heads, "num_layers": L,
        "num_transformer_submodules": 1, "num_virtual_tokens": P, "peft_type": peft_type, "peft_version": VERSION,
        "revision": None, "task_type": "CAUSAL_LM", "token_dim": width,
    }  # fmt: skip


def _trained(config: Config, width: int, numbers: int) -> int:
    """How many numbers PEFT trained: those in the file, or its prompt encoder's, which it does not save."""
    P = config.num_virtual_tokens
    if config.peft_type == "CARTRIDGE":
        return numbers // P * (P - config.num_frozen_tokens)
    if config.peft_type == "P_TUNING":
        h = config.encoder_hidden_size or width
        if config.encoder_reparameterization_type == "MLP":
            return numbers + h * (width + 1) + h * (h + 1) + width * (h + 1)
        layers = [width] + [2 * h] * (config.encoder_num_layers - 1)  # inputs of each: both directions, four gates
        return numbers + sum(8 * h * (n + h + 2) for n in layers) + 2 * h * (2 * h + 1) + width * (2 * h + 1)
    if config.prefix_projection and config.peft_type == "PREFIX_TUNING" and config.token_dim:
        h = config.encoder_hidden_size or config.token_dim
        return P * config.token_dim + h * (config.token_dim + 1) + width * (h + 1)
    return numbers


def _task(task: int | None, tasks: int, folder: Path) -> int:
    if task is None and tasks > 1:
        raise UsageError(f"{str(folder)!r} holds prompts for {tasks:,} tasks; choose one: --task 0 to {tasks - 1}")
    if task is not None and not 0 <= task < tasks:
        raise UsageError(f"--task {task}: {str(folder)!r} has the tasks 0 to {tasks - 1}")
    return task or 0


def _check_folder(folder: Path) -> None:
    """Refuse to write where anything but a prompt of PEFT's lies."""
    try:
        there = os.listdir(folder)
    except FileNotFoundError:
        if not os.path.islink(folder):
            return
        raise ForewordError(f"{str(folder)!r} is a link that leads nowhere; choose another folder") from None
    except (OSError, ValueError) as error:
        raise ForewordError(f"cannot write into {str(folder)!r}: {error}; choose another folder") from error
    if there and CONFIG not in there:
        raise ForewordError(
            f"{str(folder)!r} holds other files, such as {sorted(there)[0]!r}, and no {CONFIG!r}; choose a new folder"
        )
    if there and (kind := read_json(folder / CONFIG).get("peft_type")) not in TYPES:
        raise ForewordError(f"{str(folder)!r} holds an adapter of type {shown(kind)}, no prompt; choose a new folder")
