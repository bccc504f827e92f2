"""`foreword prompts …`: look into the prompt table and put things there."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli import exchange, sharing
from foreword.cli.console import Display, print_json, print_table
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl, find_prompt, read_inputs

app = typer.Typer(no_args_is_help=True, help="Stored prompts: names, versions, aliases.")
app.command("import")(exchange.import_prompt)
app.command("export")(exchange.export_prompt)
app.command("push")(sharing.push)
app.command("pull")(sharing.pull)
app.command("card")(sharing.card)
Ref = Annotated[str, typer.Argument(help="name, name@alias or name:version; or a .prompt file.")]


@app.command("list")
def list_prompts(
    name: Annotated[str | None, typer.Argument(help="All versions of this prompt.")] = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """The newest version of every prompt, or all versions of one."""
    from rich.table import Table

    from foreword.table import PromptTable

    entries = PromptTable.open(table).list(name)
    if as_json:
        fields = ("name", "version", "kind", "digest", "message", "author", "virtual_tokens")
        rows = [
            {f: getattr(e, f) for f in fields} | {"aliases": [*e.aliases], "created": e.created.isoformat()}
            for e in entries
        ]
        print_json({"prompts": rows})
        return
    shown = Table("prompt", "kind", "virtual tokens", "aliases", "created", "message", box=None, pad_edge=False)
    for entry in entries:
        created, tokens = entry.created.astimezone().strftime("%Y-%m-%d %H:%M"), str(entry.virtual_tokens or "")
        shown.add_row(entry.ref, entry.kind, tokens, ", ".join(entry.aliases), created, entry.message)
    print_table(shown if entries else "No prompts yet: 'foreword prompts add FILE' or 'foreword demo'.")


@app.command()
def show(ref: Ref, table: TableUrl = None) -> None:
    """The prompt file, and what its vectors are."""
    from foreword.table import PromptTable

    prompt = find_prompt(ref, PromptTable.open(table))
    print(prompt.to_text(), end="")
    if prompt.soft is not None:
        soft = prompt.soft
        numbers = sum(tensor.size for tensor in soft.tensors.values())
        made = f"{soft.method} on {soft.backbone} ({soft.fingerprint[:12]}), run {soft.run}"
        print(f"\n# {len(soft)} virtual tokens, {numbers:,} numbers, {made}")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A .prompt file; its vectors are taken from beside it.")],
    alias: Annotated[str | None, typer.Option(help="Alias to give the new version.")] = None,
    message: Annotated[str, typer.Option("--message", "-m")] = "",
    table: TableUrl = None,
) -> None:
    """Store a prompt file as a new version."""
    from foreword.prompts import Prompt
    from foreword.table import PromptTable

    print(PromptTable.open(table).put(Prompt.load(file), alias=alias, message=message).ref)


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="The prompt.")],
    alias: Annotated[str, typer.Argument(help="The alias, such as prod.")],
    version: Annotated[int, typer.Argument(help="The version that it shall point to.")],
    table: TableUrl = None,
) -> None:
    """Point an alias at a version."""
    from foreword.table import PromptTable

    PromptTable.open(table).alias(name, alias, version)
    print(f"{name}@{alias} is {name}:{version}")


@app.command()
def render(
    ref: Ref,
    inputs: Annotated[list[str], typer.Option("--input", "-i", help="name=value; once per variable.")] = [],  # noqa: B006
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """The exact tokens that the model would read."""
    from foreword.cli.shared import load_backbone
    from foreword.table import PromptTable

    prompt = find_prompt(ref, PromptTable.open(table))
    row = read_inputs(inputs)
    prompt.render(row)  # a wrong input is told before a model is loaded
    with Display() as display:
        model = load_backbone(backbone, dtype, display)
    ids = model.encode(prompt, row).ids.tolist()
    pieces = [f"<virtual {-1 - i}>" if i < 0 else model.tokenizer.decode([i]) for i in ids]
    if as_json:
        print_json(
            {
                "prompt": prompt.name,
                "tokens": [{"id": i if i >= 0 else None, "text": t} for i, t in zip(ids, pieces, strict=True)],
            }
        )
        return
    print("".join(f"[{piece}]".replace("\n", "\\n") for piece in pieces))
    print(f"{len(ids)} tokens, {sum(i < 0 for i in ids)} of them virtual", flush=True)
