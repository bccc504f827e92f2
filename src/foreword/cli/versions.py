"""`foreword prompts list`, `search`, `log`, `tag`, `untag`, `delete`, `restore`: what is in the table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreword.cli.console import print_json, print_table
from foreword.cli.shared import Json, TableUrl, find_table

if TYPE_CHECKING:
    from foreword.table import AliasMove, Stored

PAGE = 100
"""Entries that are shown at once."""
FIELDS = ("name", "version", "kind", "digest", "message", "author", "virtual_tokens", "parent")
Name = Annotated[str, typer.Argument(help="The prompt.")]
Tag = Annotated[str | None, typer.Option(help="Only prompts with this tag.")]
Limit = Annotated[int, typer.Option(min=1, help="Entries at most.")]
After = Annotated[str | None, typer.Option(help="Begin behind this entry: the last one that was shown.")]
Which = Annotated[str, typer.Argument(metavar="PROMPT", help="name for all its versions, or name:version.")]


def list_prompts(
    name: Annotated[str | None, typer.Argument(help="All versions of this prompt.")] = None,
    tag: Tag = None,
    limit: Limit = PAGE,
    after: After = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """The newest version of every prompt, or all versions of one."""
    entries = find_table(table).list(name, tag, limit + 1, after)
    none = "No prompts yet: 'foreword prompts add FILE' or 'foreword demo'." if not (tag or after) else "No more."
    _show(entries, limit, as_json, none)


def search(
    text: Annotated[str, typer.Argument(help="What to look for, in any case.")],
    tag: Tag = None,
    limit: Limit = PAGE,
    after: After = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """The prompts whose name, description, message or body holds a text; of each the newest version that does."""
    _show(find_table(table).search(text, tag, limit + 1, after), limit, as_json, "Nothing found.")


def log(name: Name, limit: Limit = PAGE, table: TableUrl = None, as_json: Json = False) -> None:
    """What has happened to a prompt, newest first: its versions, where they come from, and every move of an alias."""
    from foreword.table import Stored

    events = find_table(table).log(name, limit)
    if as_json:
        print_json({"events": [_event(event) for event in events]})
        return
    for event in events:
        when = event.created.astimezone().strftime("%Y-%m-%d %H:%M")
        if isinstance(event, Stored):
            came = f", from {event.parent}" if event.parent else ""
            what = f"{event.ref} {event.kind}{came}"
        else:
            what = f"{name}@{event.alias} is {name}:{event.version}"
            what += f", was {name}:{event.before}" if event.before else ""
        print(f"{when}  {what}, by {event.author}{': ' if event.message else ''}{event.message}")
        for key, value in event.origin.items() if isinstance(event, Stored) else ():
            print(f"{'':18}{key}: {value}")


def tag(
    name: Name,
    tags: Annotated[list[str], typer.Argument(help="Words to find it by.")],
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Add tags to a prompt, whatever its version."""
    _say_tags(name, find_table(table).tag(name, *tags), as_json)


def untag(
    name: Name,
    tags: Annotated[list[str], typer.Argument(help="Tags to take off.")],
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Take tags off a prompt."""
    _say_tags(name, find_table(table).untag(name, *tags), as_json)


def delete(prompt: Which, table: TableUrl = None, as_json: Json = False) -> None:
    """Hide a prompt, or one version of it. Nothing is lost: 'restore' brings it back."""
    gone = find_table(table).delete(prompt)
    if as_json:
        print_json({"deleted": gone})
    else:
        them = "it" if len(gone) == 1 else "them"
        print(f"{_many(gone)} deleted; 'foreword prompts restore {prompt}' brings {them} back")


def restore(prompt: Which, table: TableUrl = None, as_json: Json = False) -> None:
    """Take back the deletion of a version, or the last deletion under a name."""
    back = find_table(table).restore(prompt)
    if as_json:
        print_json({"restored": back})
    else:
        print(f"{_many(back)} restored")


def _show(found: "list[Stored]", limit: int, as_json: bool, none: str) -> None:
    """One page, and how to go on where `found` holds more."""
    from rich.table import Table

    entries, after = found[:limit], found[limit - 1].ref if len(found) > limit else None
    if as_json:
        print_json({"prompts": [entry(stored) for stored in entries], "after": after})
        return
    columns = ("prompt", "kind", "virtual tokens", "aliases", "tags", "created", "message")
    shown = Table(*columns, box=None, pad_edge=False)
    for stored in entries:
        created, tokens = stored.created.astimezone().strftime("%Y-%m-%d %H:%M"), str(stored.virtual_tokens or "")
        aliases, tags = ", ".join(stored.aliases), ", ".join(stored.tags)
        shown.add_row(stored.ref, stored.kind, tokens, aliases, tags, created, stored.message)
    print_table(shown if entries else none)
    if after:
        print(f"There are more: --after {after}")


def entry(stored: "Stored") -> dict[str, Any]:
    """What is known of a version, for JSON."""
    lists = {"aliases": [*stored.aliases], "tags": [*stored.tags], "origin": {**stored.origin}}
    return {name: getattr(stored, name) for name in FIELDS} | lists | {"created": stored.created.isoformat()}


def _event(event: "Stored | AliasMove") -> dict[str, Any]:
    from foreword.table import Stored

    if isinstance(event, Stored):
        return {"event": "version", **entry(event)}
    return {"event": "alias", **vars(event), "created": event.created.isoformat()}


def _say_tags(name: str, tags: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "tags": [*tags]})
    else:
        print(f"{name}: {', '.join(tags) or 'no tags'}")


def _many(refs: Sequence[str]) -> str:
    return ", ".join(refs[:10]) + (f" and {len(refs) - 10:,} more" if len(refs) > 10 else "")
