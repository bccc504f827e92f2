"""What several verbs do alike: load a backbone and say which dtype, find a prompt by name or file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display
from foreword.errors import ForewordError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foreword.backbone import Backbone, LanguageModel
    from foreword.prompts import Prompt
    from foreword.serve.engines.seam import Engine
    from foreword.table import PromptTable

BackboneName = Annotated[
    str,
    typer.Option("--backbone", "-b", help="Built-in name, folder, .gguf file, hub id, or openai:URL#model."),
]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16; auto takes bfloat16 where it is faster.")]
TableUrl = Annotated[str | None, typer.Option("--table", help="Prompt table: a .db file or a database URL.")]
Json = Annotated[bool, typer.Option("--json", help="The result as one JSON document on stdout.")]
DEFAULT_BACKBONE = "smollm2-135m"


def load_backbone(name: str, dtype: str, display: Display) -> "Backbone":
    """A local backbone; says what was loaded and how it will compute."""
    import torch

    from foreword.backbone import Backbone

    _begin_loading(name, display)
    backbone = Backbone.load(name, dtype, display)
    millions = sum(p.numel() for p in backbone.model.parameters()) / 1e6
    threads = torch.get_num_threads()
    where = f"{threads} CPU threads" if backbone.device.type == "cpu" else torch.cuda.get_device_name()
    display.say(f"Backbone {backbone.name}: {millions:.0f} M frozen weights, {short(backbone.dtype)}, {where}.")
    return backbone


def load_on_vllm(name: str, dtype: str, options: "Mapping[str, object]", display: Display) -> "tuple[Backbone, Engine]":
    """The embedding matrix of a backbone, and vLLM with all of it; says what was loaded."""
    from foreword.serve.start import on_vllm

    _begin_loading(name, display)
    backbone, engine = on_vllm(name, dtype, options, display)
    display.say(f"Backbone {backbone.name}: {short(backbone.dtype)}, {engine.context:,} tokens, on vLLM.")
    return backbone, engine


def _begin_loading(name: str, display: Display) -> None:
    import transformers

    if name.startswith("openai:"):
        raise UsageError(
            f"{name!r} is a remote model: it neither learns vectors nor tells tokens; give a local backbone"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    display.stage(f"loading {name}", 0, 0)


def load_model(name: str, dtype: str, display: Display) -> "LanguageModel":
    """A local or a remote backbone."""
    if name.startswith("openai:"):
        from foreword.backbone import RemoteBackbone

        return RemoteBackbone.parse(name)
    return load_backbone(name, dtype, display)


def is_path(ref: str) -> bool:
    """Whether `ref` means a file: a stored name means the same in every folder."""
    return ref.endswith(".prompt") or "/" in ref


def find_prompt(ref: str, table: "PromptTable") -> "Prompt":
    """A `.prompt` file when `ref` looks like a path, else an entry of the prompt table."""
    from foreword.prompts import Prompt

    if not is_path(ref):
        return table.get(ref)
    if not os.path.lexists(ref):
        raise ForewordError(f"no prompt file {ref!r}; look at the path, or at 'foreword prompts list' for stored ones")
    return Prompt.load(ref, resolve=table.get)


def find_table(url: str | None) -> "PromptTable":
    """The prompt table of a verb that puts no prompt there: one that is named must exist, so a slip makes none."""
    from foreword.table import PromptTable
    from foreword.table.database import locate

    if url is not None:
        file = locate(url)[0]
        if file.get_backend_name() == "sqlite" and not os.path.lexists(file.database or ""):
            raise UsageError(
                f"there is no prompt table at {url!r}; look at the path ('foreword prompts add' makes one)"
            )
    return PromptTable.open(url)


def stored_as(ref: str, table: "PromptTable") -> str | None:
    """`name:version` of the entry that `ref` stands for now; None for a file."""
    return None if is_path(ref) else table.find(ref).ref


def short(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def make_folder(folder: Path) -> None:
    """Make the folder of a result, so that one that cannot be is told before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ForewordError(f"cannot use the folder {str(folder)!r}: {error.strerror}; choose another --out") from error
