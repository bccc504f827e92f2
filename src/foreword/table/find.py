"""What a reference means: a `.prompt` file when it looks like a path, else an entry of the prompt table."""

import os

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.table.database import locate
from foreword.table.refs import VERSION, check_alias, parse_ref
from foreword.table.table import PromptTable


def is_path(ref: str) -> bool:
    """Whether `ref` means a file: a stored name means the same in every folder."""
    return ref.endswith(".prompt") or "/" in ref


def find_prompt(ref: str, table: PromptTable) -> Prompt:
    """The prompt that `ref` names. Raises ForewordError where there is none."""
    if not is_path(ref):
        return table.get(ref)
    if not os.path.lexists(ref):
        raise ForewordError(f"no prompt file {ref!r}; look at the path, or at 'foreword prompts list' for stored ones")
    return Prompt.load(ref, resolve=table.get)


def find_table(url: str | None) -> PromptTable:
    """The prompt table of work that puts no prompt there: one that is named must exist, so a slip makes none."""
    if url is not None:
        file = locate(url)[0]
        if file.get_backend_name() == "sqlite" and not os.path.lexists(file.database or ""):
            raise UsageError(
                f"there is no prompt table at {url!r}; look at the path ('foreword prompts add' makes one)"
            )
    return PromptTable.open(url)


def stored_as(ref: str, table: PromptTable) -> str | None:
    """`name:version` of the entry that `ref` stands for now; None for a file."""
    return None if is_path(ref) else table.find(ref).ref


def meant_version(table: PromptTable, name: str, written: str) -> int:
    """The version of `name` that `written` means: a number, or a reference to this very prompt. Raises UsageError."""
    if VERSION.fullmatch(written):
        return int(written)
    if ("@" in written or ":" in written) and parse_ref(written).name == name:
        return table.find(written).version
    raise UsageError(f"{written!r:.80} is no version of {name!r}: give one such as 2, or '{name}@staging'")


def point(table: PromptTable, name: str, alias: str, written: str, message: str = "") -> tuple[int, int | None]:
    """Point `alias` at the version that `written` means; that version, and the one that it pointed to before."""
    number = meant_version(table, name, written)
    before = table.aliases(name).get(check_alias(alias))
    table.alias(name, alias, number, message)
    return number, before
