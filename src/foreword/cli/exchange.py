"""`foreword prompts import` and `export`: read prompts of other programs, and write prompts for them."""

import os.path
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl
from foreword.cli.versions import warn_if_unchanged
from foreword.errors import ForewordError, UsageError
from foreword.files import read_text, write_atomic

if TYPE_CHECKING:
    from foreword.backbone import Backbone
    from foreword.prompts import Prompt, peft


def import_prompt(
    source: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="A prompt file, or a PEFT folder.")],
    form: Annotated[
        str | None, typer.Option("--format", help="Format of FILE. [default: guessed by its ending and text]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the prompt table; a DIR needs one.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why, for the log. [default: its format]")] = "",
    tag: Annotated[list[str], typer.Option(help="A tag to add to the prompt; more than once for more.")] = [],  # noqa: B006
    task: Annotated[int | None, typer.Option(help="Index of the task in a MULTITASK_PROMPT_TUNING prompt.")] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Store a prompt of another program: dotprompt, fstring, jinja, langchain, mlflow, openai, prompty, text; peft.

    A prompt from PEFT runs only on the backbone that it was trained on.
    """
    from foreword.table import PromptTable

    losses: list[str] = []
    if form == "peft" or (form is None and (source.is_dir() or not source.suffix)):
        if name is None:
            raise UsageError("a prompt from PEFT has no name of its own; give it one with --name")
        form, (prompt, origin) = "peft", _from_peft(source, name, task, backbone, dtype)
    else:
        if task is not None:
            raise UsageError(f"--task is for PEFT's folders, and {str(source)!r} is none")
        form, prompt, losses = _from_file(source, form, name)
        origin = f"from {form}, {source.name}"
    stored = PromptTable.open(table).put(prompt, alias=alias, message=message or origin, tags=tag)
    warn_if_unchanged(stored, message)
    if as_json:
        print_json({"prompt": stored.ref, "new": stored.new, "format": form, "losses": losses})
        return
    _print_losses(losses)
    print(stored.ref)


def _from_file(source: Path, form: str | None, name: str | None) -> "tuple[str, Prompt, list[str]]":
    from foreword.prompts import formats

    if form is not None:
        formats.format_of(form)  # raises on a wrong name before the file is read
    if not source.is_file():
        raise ForewordError(f"there is no file {str(source)!r}; give the file that holds the prompt")
    text = read_text(source, "prompt", formats.MAX_BYTES)
    form = form or formats.guess(text, source)
    prompt, losses = formats.read(text, form, source.stem, str(source))
    return form, prompt.replace(name=name) if name is not None else prompt, losses


def _from_peft(folder: Path, name: str, task: int | None, backbone: str, dtype: str) -> "tuple[Prompt, str]":
    from foreword.jobs import load_backbone
    from foreword.prompts import Prompt, peft

    adapter = peft.Adapter.read(folder, task)
    prompt = Prompt(name, adapter.body)  # raises on a wrong name before a model is loaded
    with Display() as display:
        base = _base(load_backbone(backbone, dtype, display))
        prompt = prompt.replace(soft=adapter.soft(base))
        learned_on = adapter.config.base_model_name_or_path
        if learned_on is None or not _same(learned_on, {base.name, base.path or "", backbone}):
            statement = (
                "does not say which model it was learned on" if learned_on is None else f"names {learned_on!r:.200}"
            )
            display.say(f"The folder {statement}; {base.name} has the right shape, but check that it is that model.")
    return prompt, f"from PEFT, {adapter.config.peft_type}" + ("" if task is None else f", task {task}")


def export_prompt(
    prompt: Annotated[str, typer.Argument(help="name, name@alias or name:version; or a .prompt file.")],
    dest: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="The file to write, or for peft the folder.")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="dotprompt, fstring, jinja, langchain, mlflow, openai, prompty, text; peft. "
            "[default: by the ending of FILE]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    peft_type: Annotated[
        str | None, typer.Option("--type", help="PEFT's peft_type. [default: that of the method]")
    ] = None,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Write a prompt for another program, and say what is lost. A soft prompt can be written for PEFT only."""
    from foreword.prompts import formats, peft_files
    from foreword.table import find_prompt, find_table

    if (form := form or formats.guess_for(dest)) != "peft":
        formats.format_of(form)
        if peft_type is not None:
            raise UsageError(f"--type is for PEFT's folders, and {str(dest)!r} is to be {form}")
    chosen = find_prompt(prompt, find_table(table))
    if not force and (os.path.lexists(dest / peft_files.CONFIG if form == "peft" else dest)):
        raise UsageError(f"{str(dest)!r} is there already; --force writes over it, or name another")
    if form == "peft":
        _to_peft(chosen, dest, peft_type, backbone, dtype, as_json=as_json)
        return
    text, losses = formats.write(chosen, form)
    write_atomic(dest, text.encode())
    if as_json:
        print_json({"prompt": chosen.name, "format": form, "file": str(dest), "losses": losses})
        return
    _print_losses(losses)
    print(dest)


def _to_peft(
    chosen: "Prompt", folder: Path, peft_type: str | None, backbone: str, dtype: str, *, as_json: bool
) -> None:
    from foreword.jobs import load_backbone
    from foreword.prompts import peft

    soft = peft.exportable(chosen)  # raises before a model is loaded
    with Display() as display:
        base = _base(load_backbone(backbone, dtype, display))
    written_type = peft.write(chosen, folder, base, peft_type)
    not_exported = [f"the text of {ref!r}, which it includes" for ref in chosen.includes]
    not_exported += (
        ["the rows of 'examples': whoever renders it has to give them"] if chosen.examples is not None else []
    )
    if as_json:
        losses = [
            "the template: PEFT puts virtual tokens before the whole text",
            "choices",
            "calibration",
            *not_exported,
        ]
        document = {
            "prompt": chosen.name,
            "format": "peft",
            "file": str(folder),
            "type": written_type,
            "losses": losses,
        }
        print_json({**document, "text": peft.text_behind(chosen)})
        return
    print(f"{folder}: {written_type}, {len(soft)} virtual tokens on {base.name}.")
    print("PEFT puts virtual tokens before the whole text and knows no template: give it this, variables filled in and")
    print("turns laid out by the tokenizer's chat template, for every row. Choices and calibration are lost.\n")
    print(peft.text_behind(chosen))
    _print_losses(not_exported)


def _print_losses(losses: list[str]) -> None:
    """Print what was lost on stderr, one line each."""
    for loss in losses:
        print(f"not kept: {loss}", file=sys.stderr)


def _base(backbone: "Backbone") -> "peft.Base":
    from foreword.prompts import peft

    config = backbone.model.config
    if config.is_encoder_decoder:
        raise ForewordError(
            f"{backbone.name!r} has an encoder and a decoder; only prompts of decoders are exchanged with PEFT"
        )
    heads, path = config.get_text_config().num_attention_heads, str(config.name_or_path or "")
    return peft.Base(backbone.name, path, backbone.fingerprint, backbone.dimension, heads, backbone.cache_shape)


def _same(name: str, names: set[str]) -> bool:
    """Return whether `name` is one of `names`, or a path to the same place."""
    return name in names or os.path.abspath(name) in {os.path.abspath(other) for other in names - {""}}
