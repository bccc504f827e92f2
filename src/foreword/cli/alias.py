"""`foreword prompts alias`: point an alias at a version, where a gate is given only one that is not worse."""

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
    version: Annotated[str, typer.Argument(help="The version that it shall point to: 2, NAME:2 or NAME@ALIAS.")],
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
    """Point an alias at a version."""
    from foreword.table.refs import check_alias

    store = find_table(table)
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
    from foreword.cli.tune import load_task
    from foreword.evals.gate import gate as judge

    names = (f"{name}:{version}", f"{name}:{before}")
    new, old = store.get(names[0]), store.get(names[1]) if before is not None else None
    with Display() as display:
        task = load_task(gate, display)
        return judge(load_model(backbone, dtype, display), task, new, old, names, display.stage)
