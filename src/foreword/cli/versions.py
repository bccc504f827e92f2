"""`foreword prompts list`, `search`, `log`, `tag`, `untag`, `delete`, `restore`: show and mark what is in the table."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreword.cli.console import print_json, print_table
from foreword.cli.shared import Json, TableUrl

if TYPE_CHECKING:
    from foreword.table import AliasMove, Deletion, PromptTable, Stored

PAGE = 100
"""The number of entries that are shown at once."""
FIELDS = ("name", "version", "kind", "digest", "message", "author", "virtual_tokens", "parent")
Name = Annotated[str, typer.Argument(help="The prompt.")]
Tag = Annotated[str | None, typer.Option(help="Show only prompts with this tag.")]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of entries.")]
After = Annotated[str | None, typer.Option(help="Show the entries after this one, the last that was shown.")]
Which = Annotated[str, typer.Argument(metavar="PROMPT", help="name for all its versions, or name:version.")]


def list_prompts(
    name: Annotated[str | None, typer.Argument(help="List all versions of this prompt.")] = None,
    tag: Tag = None,
    limit: Limit = PAGE,
    after: After = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """List the newest version of every prompt, or all versions of one.

    Example: foreword prompts list --tag mail
    """
    from foreword.table import find_table

    store = find_table(table)
    entries, none = store.list(name, tag, limit + 1, after), "No more."
    if not entries and not after:
        none = _no_tag(store, tag, name) if tag else "No prompts yet: 'foreword prompts add FILE' or 'foreword demo'."
    _print_page(entries, limit, as_json, none, all_aliases=name is None)


def search(
    text: Annotated[str, typer.Argument(help="Text to look for; upper and lower case are the same.")],
    tag: Tag = None,
    limit: Limit = PAGE,
    after: After = None,
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """List prompts whose name, description, message or body contains a text; of each the newest version that does.

    Example: foreword prompts search "polite sentence"
    """
    from foreword.table import find_table

    store = find_table(table)
    entries, none = store.search(text, tag, limit + 1, after), "No more."
    if not entries and not after:
        none = _no_tag(store, tag) if tag and tag not in store.tags() else _not_found(store, text, tag)
    _print_page(entries, limit, as_json, none, all_aliases=True)


def log(name: Name, limit: Limit = PAGE, table: TableUrl = None, as_json: Json = False) -> None:
    """Show the history of a prompt, newest first: versions and their origin, deletions, moves of aliases.

    Example: foreword prompts log reply --limit 20
    """
    from foreword.table import Deletion, Stored, find_table

    events = find_table(table).log(name, limit)
    if as_json:
        print_json({"events": [_event(event) for event in events]})
        return
    for event in events:
        when = event.created.astimezone().strftime("%Y-%m-%d %H:%M")
        if isinstance(event, Stored):
            source = f", from {event.parent}" if event.parent else ""
            what = f"{event.ref}{' (deleted)' if event.deleted else ''} {event.kind}{source}"
        elif isinstance(event, Deletion):
            what = f"{_many(_refs(event))} {_done(event)}"
        else:
            what = f"{name}@{event.alias} is {f'{name}:{event.version}' if event.version else 'removed'}"
            what += f", was {name}:{event.before}" if event.before else ""
        why = "" if isinstance(event, Deletion) else event.message
        print(f"{when}  {what}, by {event.author}{': ' if why else ''}{why}")
        for key, value in event.origin.items() if isinstance(event, Stored) else ():
            print(f"{'':18}{key}: {value}")


def tag(
    name: Name,
    tags: Annotated[list[str], typer.Argument(help="Tags to add.")],
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Add tags to all versions of a prompt."""
    from foreword.table import find_table

    _print_tags(name, find_table(table).tag(name, *tags), as_json)


def untag(
    name: Name,
    tags: Annotated[list[str], typer.Argument(help="Tags to remove.")],
    table: TableUrl = None,
    as_json: Json = False,
) -> None:
    """Remove tags from a prompt."""
    from foreword.table import find_table

    _print_tags(name, find_table(table).untag(name, *tags), as_json)


def delete(prompt: Which, table: TableUrl = None, as_json: Json = False) -> None:
    """Delete a prompt, or one version of it. Nothing is lost: 'restore' brings it back."""
    from foreword.table import find_table

    deleted = find_table(table).delete(prompt)
    if as_json:
        print_json({"deleted": deleted})
    else:
        them = "it" if len(deleted) == 1 else "them"
        print(f"{_many(deleted)} deleted; 'foreword prompts restore {prompt}' brings {them} back")


def restore(prompt: Which, table: TableUrl = None, as_json: Json = False) -> None:
    """Undo the deletion of a version, or the last deletion under a name."""
    from foreword.table import find_table

    restored = find_table(table).restore(prompt)
    if as_json:
        print_json({"restored": restored})
    else:
        print(f"{_many(restored)} restored")


def warn_if_unchanged(stored: "Stored", message: str) -> None:
    """Warn on stderr if nothing new was stored, because the newest version is the same."""
    if stored.new:
        return
    dropped = "; the message is dropped: a version keeps its own" if message and not stored.moved else ""
    print(f"{stored.ref} (unchanged): it says the same already{dropped}", file=sys.stderr)


def _no_tag(store: "PromptTable", tag: str, name: str | None = None) -> str:
    from foreword.table import suggestion

    if name is not None:
        return f"{name!r} has no tag {tag!r}; {suggestion(tag, store.find(name).tags, 'its tags')}"
    return f"No prompt has the tag {tag!r}; {suggestion(tag, store.tags(), 'tags')}"


def _not_found(store: "PromptTable", text: str, tag: str | None) -> str:
    among = f" among those with the tag {tag!r}" if tag else ""
    return f"Nothing holds {text!r:.100}{among}; {store.near(text)}"


def _print_page(stored_prompts: "list[Stored]", limit: int, as_json: bool, none: str, *, all_aliases: bool) -> None:
    """Print one page of at most `limit` entries; if `stored_prompts` holds more, say how to go on."""
    from rich.table import Table

    entries, after = stored_prompts[:limit], stored_prompts[limit - 1].ref if len(stored_prompts) > limit else None
    if as_json:
        print_json({"prompts": [entry(stored) for stored in entries], "after": after})
        return
    columns = ("prompt", "kind", "virtual tokens", "aliases", "tags", "created", "message")
    grid = Table(*columns, box=None, pad_edge=False)
    for stored in entries:
        created, tokens = stored.created.astimezone().strftime("%Y-%m-%d %H:%M"), str(stored.virtual_tokens or "")
        aliases, tags = ", ".join(_aliases(stored) if all_aliases else stored.aliases), ", ".join(stored.tags)
        grid.add_row(stored.ref, stored.kind, tokens, aliases, tags, created, stored.message)
    print_table(grid if entries else none)
    if after:
        print(f"There are more: --after {after}")


def _aliases(stored: "Stored") -> list[str]:
    """Return all aliases of the prompt; those of another version than the one shown name it."""
    return [
        alias if version == stored.version else f"{alias}→{version}" for alias, version in stored.alias_versions.items()
    ]


def entry(stored: "Stored") -> dict[str, Any]:
    """Return everything about a version, for JSON."""
    lists: dict[str, Any] = {"aliases": [*stored.aliases], "alias_versions": {**stored.alias_versions}}
    lists |= {"tags": [*stored.tags], "origin": {**stored.origin}}
    return {name: getattr(stored, name) for name in FIELDS} | lists | {"created": stored.created.isoformat()}


def _event(event: "Stored | AliasMove | Deletion") -> dict[str, Any]:
    from foreword.table import Deletion, Stored

    if isinstance(event, Stored):
        deleted = event.deleted.isoformat() if event.deleted else None
        return {"event": "version", **entry(event), "deleted": deleted}
    if isinstance(event, Deletion):
        fields = {"name": event.name, "versions": [*event.versions], "author": event.author}
        return {"event": _done(event), **fields, "created": event.created.isoformat()}
    return {"event": "alias", **vars(event), "created": event.created.isoformat()}


def _print_tags(name: str, tags: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "tags": [*tags]})
    else:
        print(f"{name}: {', '.join(tags) or 'no tags'}")


def _refs(event: "Deletion") -> list[str]:
    return [f"{event.name}:{version}" for version in event.versions]


def _done(event: "Deletion") -> str:
    return "restored" if event.restored else "deleted"


def _many(refs: Sequence[str]) -> str:
    return ", ".join(refs[:10]) + (f" and {len(refs) - 10:,} more" if len(refs) > 10 else "")
