"""`foreword prompts alias`: moves an alias to a version, through a gate if one is given, or removes it."""

from pathlib import Path
from typing import Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl
from foreword.errors import GateError, UsageError


def alias(
    name: Annotated[str, typer.Argument(help="The prompt.")],
    alias: Annotated[str, typer.Argument(help="The alias, such as prod.")],
    version: Annotated[str | None, typer.Argument(help="The version to point it at: 2, NAME:2 or NAME@ALIAS.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    gate: Annotated[
        Path | None,
        typer.Option(
            help="Task file: refuse (exit code 3) a version that is worse on its dev rows than the current one."
        ),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why, for the log.")] = "",
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Point an alias at a version, or remove it."""
    if remove:
        if version is not None or gate is not None:
            raise UsageError("--remove takes neither a version nor a gate; give one or the other")
        _remove(name, alias, message, table, as_json)
        return
    if version is None:
        raise UsageError(
            f"give the version that {name}@{alias} is to point at: 'foreword prompts alias {name} {alias} 1'"
        )
    if gate is None:  # the table alone: no model is needed, and nothing heavy is loaded
        from foreword.table import find_table, point

        number, before = point(find_table(table), name, alias, version, message)
        document = {"prompt": name, "alias": alias, "version": number, "before": before, "moved": True, "gate": None}
    else:
        from foreword.jobs import promote

        with Display() as display:
            promotion = promote(
                name, alias, version, task=gate, backbone=backbone, dtype=dtype, message=message, table=table,
                listener=display,
            )  # fmt: skip
        number, before, document = promotion.version, promotion.before, promotion.to_json()
        if promotion.verdict is not None and not as_json:
            print(promotion.verdict)
    if as_json:
        print_json(document)
    if not document["moved"]:
        raise GateError(
            f"{name}:{number} is worse than {name}:{before}, so {name}@{alias} stays where it is; "
            f"'foreword prompts diff {name}:{before} {name}:{number} --task {gate}' shows on which rows"
        )
    if not as_json:
        print(f"{name}@{alias} is {name}:{number}")


def _remove(name: str, alias: str, message: str, table: str | None, as_json: bool) -> None:
    from foreword.table import find_table

    before = find_table(table).unalias(name, alias, message)
    if as_json:
        print_json({"prompt": name, "alias": alias, "version": None, "before": before, "moved": True, "gate": None})
    else:
        print(f"{name}@{alias} is removed, was {name}:{before}")
