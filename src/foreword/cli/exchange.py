"""`foreword prompts import` and `export`: prompts from PEFT and for it."""

import os.path
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, TableUrl, find_prompt, load_backbone
from foreword.errors import ForewordError, UsageError

if TYPE_CHECKING:
    from foreword.backbone import Backbone
    from foreword.prompts.peft import Base


def import_prompt(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder in which PEFT saved the prompt.")],
    name: Annotated[str, typer.Option(help="Name that the prompt gets in the table.")],
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    task: Annotated[int | None, typer.Option(help="Which task of a MULTITASK_PROMPT_TUNING prompt.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
) -> None:
    """Store a prompt that PEFT learned, bound to the backbone that it was learned on."""
    from foreword.prompts import Prompt
    from foreword.prompts.peft import Adapter
    from foreword.table import PromptTable

    adapter = Adapter.read(folder, task)
    prompt = Prompt(name, adapter.body)  # a wrong name is told before a model is loaded
    with Display() as display:
        base = _base(load_backbone(backbone, dtype, display))
        prompt = prompt.replace(soft=adapter.soft(base))
        learned_on = adapter.config.base_model_name_or_path
        if learned_on is None or not _same(learned_on, {base.name, base.path or "", backbone}):
            says = "does not say which model it was learned on" if learned_on is None else f"names {learned_on!r:.200}"
            display.say(
                f"The folder {says}; {base.name} has the right shape, and only you can tell if it is that model."
            )
    said = f"from PEFT, {adapter.config.peft_type}" + ("" if task is None else f", task {task}")
    print(PromptTable.open(table).put(prompt, alias=alias, message=said).ref)


def export_prompt(
    prompt: Annotated[str, typer.Argument(help="name, name@alias or name:version; or a .prompt file.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or one that holds such a prompt.")],
    form: Annotated[str, typer.Option("--format", help="peft")] = "peft",
    peft_type: Annotated[str | None, typer.Option("--type", help="PEFT's peft_type; by default its method's.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
) -> None:
    """Write a soft prompt as a folder that PEFT loads, and say what text belongs behind it."""
    from foreword.prompts.peft import exportable, text_behind, write
    from foreword.table import PromptTable

    if form != "peft":
        raise UsageError(f"--format {form!r}: choose 'peft'")
    chosen = find_prompt(prompt, PromptTable.open(table))
    soft = exportable(chosen)  # told before a model is loaded
    with Display() as display:
        base = _base(load_backbone(backbone, dtype, display))
    written = write(chosen, folder, base, peft_type)
    print(f"{folder}: {written}, {len(soft)} virtual tokens on {base.name}.")
    print("PEFT puts virtual tokens before the whole text and knows no template: give it this, variables filled in and")
    print("turns laid out by the tokenizer's chat template, for every row. Choices and calibration stay behind.\n")
    print(text_behind(chosen))


def _base(backbone: "Backbone") -> "Base":
    from foreword.prompts.peft import Base

    config = backbone.model.config
    if config.is_encoder_decoder:
        raise ForewordError(
            f"{backbone.name!r} has an encoder and a decoder; only prompts of decoders are exchanged with PEFT"
        )
    heads, path = config.get_text_config().num_attention_heads, str(config.name_or_path or "")
    return Base(backbone.name, path, backbone.fingerprint, backbone.dimension, heads, backbone.cache_shape)


def _same(name: str, names: set[str]) -> bool:
    """Whether `name` is one of `names`, or a path to the same place."""
    return name in names or os.path.abspath(name) in {os.path.abspath(other) for other in names - {""}}
