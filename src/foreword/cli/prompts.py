"""`foreword prompts …`: the verbs of the prompt table, and those that show, add and render a prompt."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from foreword.cli import alias, calibrate, diff, exchange, lint, sharing, versions
from foreword.cli.console import Display, print_json
from foreword.cli.inputs import Inputs, parse_types, read_inputs
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl

app = typer.Typer(no_args_is_help=True, help="Stored prompts: names, versions, aliases.")
Message = Annotated[str, typer.Option("--message", "-m", help="Why, for the log.")]
Ref = Annotated[str, typer.Argument(help="name, name@alias or name:version; or a .prompt file.")]


def show(ref: Ref, table: TableUrl = None, as_json: Json = False) -> None:
    """Print a prompt file, and what its vectors are."""
    from foreword.prompts import vector_facts
    from foreword.table import find_prompt, find_table

    prompt = find_prompt(ref, find_table(table))
    if as_json:
        document = {"prompt": prompt.name, "digest": prompt.digest, "text": prompt.to_text()}
        print_json({**document, "vectors": vector_facts(prompt.soft)})
        return
    print(prompt.to_text(), end="")
    if prompt.soft is not None:
        soft = prompt.soft
        numbers = sum(tensor.size for tensor in soft.tensors.values())
        source = f"{soft.method} on {soft.backbone} ({soft.fingerprint[:12]}), run {soft.run}"
        print(f"\n# {len(soft)} virtual tokens, {numbers:,} numbers, {source}")


def add(
    file: Annotated[
        Path, typer.Argument(help="A .prompt file; vectors are read from the .safetensors file beside it.")
    ],
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    message: Message = "",
    parent: Annotated[
        str | None, typer.Option(help="Stored prompt that it was made from. [default: the newest version of its name]")
    ] = None,
    tag: Annotated[list[str], typer.Option(help="A tag to add to the prompt; more than once for more.")] = [],  # noqa: B006
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Store a prompt file as a new version."""
    from foreword.prompts import Prompt
    from foreword.table import PromptTable

    store = PromptTable.open(table)
    prompt = Prompt.load(file, resolve=store.get)
    stored = store.put(prompt, alias, message, parent, tags=tag)
    versions.warn_if_unchanged(stored, message)
    if prompt.virtual_tokens and prompt.soft is None:
        print(
            f"{stored.ref} has {prompt.virtual_tokens:,} virtual tokens and no vectors: it cannot run before it is "
            f"tuned, 'foreword tune TASK --start {stored.ref}'",
            file=sys.stderr,
        )
    if as_json:
        print_json({**versions.entry(stored), "new": stored.new})
    else:
        print(stored.ref)


def render(
    ref: Ref,
    inputs: Inputs = [],  # noqa: B006
    as_text: Annotated[
        bool,
        typer.Option("--text", help="Print the text, with marks for turns; no model is loaded, nothing is truncated."),
    ] = False,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Print the exact tokens that the model would read, or the text."""
    from foreword.jobs import load_backbone
    from foreword.prompts import pieces_text
    from foreword.table import find_prompt, find_table

    prompt = find_prompt(ref, find_table(table))
    row = parse_types(prompt, read_inputs(inputs))
    pieces = prompt.render(row)  # raises on a wrong input before a model is loaded
    if as_text:
        text = pieces_text(pieces)
        if as_json:
            print_json({"prompt": prompt.name, "text": text})
        else:
            print(text)
        return
    with Display() as display:
        model = load_backbone(backbone, dtype, display)
    ids = model.encode(prompt, row).ids.tolist()
    tokens = [f"<virtual {-1 - i}>" if i < 0 else model.tokenizer.decode([i]) for i in ids]
    if as_json:
        print_json(
            {
                "prompt": prompt.name,
                "tokens": [{"id": i if i >= 0 else None, "text": t} for i, t in zip(ids, tokens, strict=True)],
            }
        )
        return
    print("".join(f"[{piece}]".replace("\n", "\\n") for piece in tokens))
    print(f"{len(ids)} tokens, {sum(i < 0 for i in ids)} of them virtual", flush=True)


VERBS: dict[str, Callable[..., None]] = {
    "add": add, "list": versions.list_prompts, "show": show, "render": render,
    "alias": alias.alias, "log": versions.log, "diff": diff.diff, "lint": lint.lint,
    "calibrate": calibrate.calibrate, "search": versions.search,
    "tag": versions.tag, "untag": versions.untag, "delete": versions.delete, "restore": versions.restore,
    "import": exchange.import_prompt, "export": exchange.export_prompt,
    "push": sharing.push, "pull": sharing.pull, "card": sharing.card,
}  # fmt: skip
"""The verbs, in the order in which --help shows them."""
for name, verb in VERBS.items():
    app.command(name)(verb)
