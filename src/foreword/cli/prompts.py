"""`foreword prompts …`: look into the prompt table and put things there."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli import alias, calibrate, diff, exchange, lint, sharing, versions
from foreword.cli.console import Display, print_json
from foreword.cli.inputs import Inputs, read_inputs, typed
from foreword.cli.shared import (
    DEFAULT_BACKBONE,
    BackboneName,
    Dtype,
    Json,
    TableUrl,
    find_prompt,
    find_table,
)

app = typer.Typer(no_args_is_help=True, help="Stored prompts: names, versions, aliases.")
app.command("diff")(diff.diff)
app.command("alias")(alias.alias)
app.command("import")(exchange.import_prompt)
app.command("export")(exchange.export_prompt)
app.command("lint")(lint.lint)
app.command("calibrate")(calibrate.calibrate)
app.command("list")(versions.list_prompts)
for verb in (versions.search, versions.log, versions.tag, versions.untag, versions.delete, versions.restore):
    app.command()(verb)
Message = Annotated[str, typer.Option("--message", "-m", help="Why, for the log.")]
app.command("push")(sharing.push)
app.command("pull")(sharing.pull)
app.command("card")(sharing.card)
Ref = Annotated[str, typer.Argument(help="name, name@alias or name:version; or a .prompt file.")]


@app.command()
def show(ref: Ref, table: TableUrl = None, as_json: Json = False) -> None:
    """The prompt file, and what its vectors are."""
    from foreword.prompts.vector_diff import facts

    prompt = find_prompt(ref, find_table(table))
    if as_json:
        document = {"prompt": prompt.name, "digest": prompt.digest, "text": prompt.to_text()}
        print_json({**document, "vectors": facts(prompt.soft)})
        return
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
    message: Message = "",
    parent: Annotated[
        str | None, typer.Option(help="Stored prompt that it was made from. [default: the newest of its name]")
    ] = None,
    tag: Annotated[list[str], typer.Option(help="A tag to add to the prompt; more than once for more.")] = [],  # noqa: B006
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Store a prompt file as a new version."""
    from foreword.prompts import Prompt
    from foreword.table import PromptTable

    store = PromptTable.open(table)
    stored = store.put(Prompt.load(file, resolve=store.get), alias, message, parent, tags=tag)
    if as_json:
        print_json(versions.entry(stored))
    else:
        print(stored.ref)


@app.command()
def render(
    ref: Ref,
    inputs: Inputs = [],  # noqa: B006
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """The exact tokens that the model would read."""
    from foreword.cli.shared import load_backbone

    prompt = find_prompt(ref, find_table(table))
    row = typed(prompt, read_inputs(inputs))
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
