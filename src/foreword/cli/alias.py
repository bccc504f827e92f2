"""`foreword prompts alias`: point an alias at a version (given a gate, only at one that is not worse), or remove it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl, find_table, load_model
from foreword.errors import GateError, UsageError

if TYPE_CHECKING:
    from foreword.evals.gate import Verdict
    from foreword.table import PromptTable


def alias(
    name: Annotated[str, typer.Argument(help="The prompt.")],
    alias: Annotated[str, typer.Argument(help="The alias, such as prod.")],
    version: Annotated[
        str | None, typer.Argument(help="The version that it shall point to: 2, NAME:2 or NAME@ALIAS.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away; it means nothing then.")] = False,
    gate: Annotated[
        Path | None,
        typer.Option(help="Task file: refuse (exit code 3) a version that is worse on its dev rows than the present."),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Why, for the log.")] = "",
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Point an alias at a version, or remove it."""
    from foreword.table.refs import check_alias

    store = find_table(table)
    if remove:
        if version is not None or gate is not None:
            raise UsageError("--remove takes neither a version nor a gate; give one or the other")
        was = store.unalias(name, alias, message)
        if as_json:
            print_json({"prompt": name, "alias": alias, "version": None, "before": was, "moved": True, "gate": None})
        else:
            print(f"{name}@{alias} is removed, was {name}:{was}")
        return
    if version is None:
        raise UsageError(f"say which version {name}@{alias} shall mean: 'foreword prompts alias {name} {alias} 1'")
    number = _number(store, name, version)
    before, verdict = store.aliases(name).get(check_alias(alias)), None
    if gate is not None and before != number:
        verdict = _judge(store, name, before, number, gate, backbone, dtype)
        if not as_json:
            print(verdict)
    moved = verdict is None or verdict.passed
    if gate is None:
        store.alias(name, alias, number, message)
    elif moved:
        store.move(name, alias, number, before, message)
    if as_json:
        judged = verdict.to_json() if verdict else None
        print_json(
            {"prompt": name, "alias": alias, "version": number, "before": before, "moved": moved, "gate": judged}
        )
    if not moved:
        raise GateError(
            f"{name}:{number} is worse than {name}:{before}, so {name}@{alias} stays where it is; "
            f"'foreword prompts diff {name}:{before} {name}:{number} --task {gate}' shows on which rows"
        )
    if not as_json:
        print(f"{name}@{alias} is {name}:{number}")


def _number(store: "PromptTable", name: str, written: str) -> int:
    """The version that `written` means: a number, or a reference to this very prompt."""
    from foreword.table.refs import VERSION, parse

    if VERSION.fullmatch(written):
        return int(written)
    if ("@" in written or ":" in written) and parse(written).name == name:
        return store.find(written).version
    raise UsageError(f"{written!r:.80} is no version of {name!r}: give one such as 2, or '{name}@staging'")


def _judge(
    store: "PromptTable", name: str, before: int | None, version: int, gate: Path, backbone: str, dtype: str
) -> "Verdict":
    """Measure both versions; progress goes to stderr."""
    from foreword.cli.tasks import load_task
    from foreword.evals.gate import gate as judge

    names = (f"{name}:{version}", f"{name}:{before}")
    new, old = store.get(names[0]), store.get(names[1]) if before is not None else None
    with Display() as display:
        task = load_task(gate, display)
        return judge(load_model(backbone, dtype, display), task, new, old, names, display)
