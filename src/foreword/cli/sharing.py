"""`foreword prompts push`, `pull` and `card`: share stored prompts with others."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import Dtype, Json, TableUrl
from foreword.cli.versions import warn_if_unchanged
from foreword.errors import ForewordError
from foreword.files import write_atomic

if TYPE_CHECKING:
    from foreword.prompts import Prompt

MAX_RESULT = 20_000_000
"""The most bytes of a comparison's result."""

ResultFile = Annotated[Path | None, typer.Option("--result", help="result.json of 'foreword compare', for the card.")]


def push(
    ref: Annotated[str, typer.Argument(help="name, name@alias or name:version.")],
    dest: Annotated[str, typer.Argument(help="A folder, s3://…, hf://… or another fsspec address.")],
    result: ResultFile = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Copy a version, its vectors and its card to where others can pull it from."""
    from foreword.table import find_table, push

    pushed = push(find_table(table), ref, dest, read_result(result))
    if as_json:
        manifest = pushed.manifest.model_dump(mode="json")
        print_json({"address": pushed.address, "new": pushed.new, "bundle": manifest})
        return
    print(pushed.address)


def pull(
    source: Annotated[
        str, typer.Argument(help="Address that push printed, or a store's address with '/NAME' or '/NAME:3'.")
    ],
    name: Annotated[str | None, typer.Option(help="Another name to store it under.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Refuse a soft prompt that was learned on another backbone.")
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why, for the log. [default: its author's]")] = "",
    tag: Annotated[list[str], typer.Option(help="Tag to add beside its own; may be repeated.")] = [],  # noqa: B006
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Check a pushed prompt and store it as a new version."""
    from foreword.jobs import load_backbone
    from foreword.table import PromptTable, pull

    def check(prompt: "Prompt") -> None:
        if backbone is not None and prompt.soft is not None:
            with Display() as display:
                model = load_backbone(backbone, dtype, display)
            if prompt.soft.fingerprint != model.fingerprint or not prompt.soft.fits(model.dimension, model.cache_shape):
                raise ForewordError(
                    f"prompt {prompt.name!r} was learned on {prompt.soft.backbone!r:.80} and does not fit "
                    f"{model.name!r}; nothing was stored"
                )

    pulled = pull(PromptTable.open(table), source, name, alias, check, message, tag)
    warn_if_unchanged(pulled.stored, message)
    if as_json:
        manifest = pulled.manifest.model_dump(mode="json")
        document = {"prompt": pulled.stored.ref, "parts": [*pulled.parts], "message": pulled.stored.message}
        print_json({**document, "new": pulled.stored.new, "bundle": manifest})
        return
    for part in pulled.parts:
        print(f"with {part}, which it includes", file=sys.stderr)
    print(pulled.stored.ref)


def card(
    ref: Annotated[str, typer.Argument(help="name, name@alias or name:version; or a .prompt file.")],
    result: ResultFile = None,
    out: Annotated[Path | None, typer.Option(help="File to write instead of stdout.")] = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Print a page about a prompt: what it is, takes and answers, how it was tuned and scored, how to use it."""
    from foreword.table import card_text, find_prompt, find_table, is_path

    prompts = find_table(table)
    prompt = find_prompt(ref, prompts)
    stored = None if is_path(ref) else prompts.find(ref)
    text = card_text(prompt, stored, read_result(result))
    if out is not None:
        write_atomic(out, text.encode())
    if as_json:
        print_json({"prompt": stored.ref if stored is not None else ref, "card": text})
    elif out is None:
        print(text, end="")


def read_result(path: Path | None) -> dict[str, Any] | None:
    """Read the `result.json` of a comparison; None without a path.

    Raises ForewordError if the file is too large, unreadable or no JSON.
    """
    if path is None:
        return None
    try:
        if path.stat().st_size > MAX_RESULT:
            raise ForewordError(f"{str(path)!r} is larger than {MAX_RESULT:,} bytes; that is no result")
        result = json.loads(path.read_bytes())
    except OSError as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise ForewordError(f"{str(path)!r} is no JSON; give the result.json of 'foreword compare'") from None
    return result if isinstance(result, dict) else {}
