"""Prompts pushed to a place that others reach, and pulled from there. Knows bundles and places; knows no models.

A store keeps every version in a folder of its own, `NAME/VERSION-DIGEST`, so that a push again changes nothing and no
push ever overwrites another. `index.md` lists what is there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.errors import ForewordError, UsageError
from foreword.prompts import PROMPT_NAME, Partial, Prompt
from foreword.redact import redact
from foreword.table import bundle
from foreword.table.bundle import CARD, MANIFEST, MAX_MANIFEST, MAX_TEXT, Manifest
from foreword.table.card import card_text
from foreword.table.places import MissingError, Place
from foreword.table.queries import suggestion
from foreword.table.refs import check_alias, check_tag
from foreword.table.stored import Stored
from foreword.table.table import PromptTable

INDEX = "index.md"
TITLE = "# Prompts\n"
FOLDER = re.compile(r"([1-9][0-9]{0,8})-([0-9a-f]{12})", re.ASCII)
MAX_LOOKED, MAX_TOLD = 500, 20
"""Folders that are looked into, and versions that are told, where a prompt is not found."""
LAST = re.compile(r"(.*?)([^/:]+)(?::([1-9][0-9]{0,8}))?/*", re.DOTALL)
"""An address whose last part may be `NAME:VERSION`."""


@dataclass(frozen=True)
class Pushed:
    """Where a version lies now."""

    address: str
    """What `pull` takes."""
    manifest: Manifest
    new: bool
    """False: it lay there already."""


@dataclass(frozen=True)
class Pulled:
    """What a bundle became in the table."""

    stored: Stored
    manifest: Manifest
    parts: tuple[str, ...] = ()
    """`name:version` of the included prompts that this table did not have, each now the newest of its name."""


def push(table: PromptTable, ref: str, dest: str | Path, result: Mapping[str, Any] | None = None) -> Pushed:
    """Puts one version of a stored prompt into the store at `dest`, a folder or an fsspec address.

    `result` is what `foreword compare` found, for the card. What lies there already is left as it is, but for the card
    where a result is given. Raises ForewordError where another content lies under the same name and version.
    """
    known = table.find(ref)
    prompt = table.get(known.ref)
    files = bundle.build(prompt, known, card_text(prompt, known, result))
    place = Place(dest)
    manifest = bundle.read_manifest(files[MANIFEST], known.ref)
    folder = f"{prompt.name}/{manifest.folder}"
    address = f"{place.shown.rstrip('/')}/{folder}"
    for _, other in _versions(place, prompt.name, known.version):
        if other != folder and MANIFEST in place.names(other):
            raise ForewordError(
                f"{place.shown!r} holds another {known.ref!r} already, {other!r}; a version never changes: "
                "store yours under another name, or push it to another place"
            )
    there = MANIFEST in place.names(folder)
    if there:
        kept = _manifest(place, folder)
        bundle.read(kept, lambda name, size: place.read(f"{folder}/{name}", size), address)
        if result is None:
            return Pushed(address, kept, new=False)
        files = bundle.with_card(kept, files[CARD])
        manifest = bundle.read_manifest(files[MANIFEST], address)
    for name, data in files.items():
        place.write(f"{folder}/{name}", data)
    _write_index(place)
    return Pushed(address, manifest, new=not there)


def pull(
    table: PromptTable,
    source: str | Path,
    name: str | None = None,
    alias: str | None = None,
    check: Callable[[Prompt], None] | None = None,
    message: str = "",
    tags: Iterable[str] = (),
) -> Pulled:
    """Stores what lies at `source` as a new version, under its own name or under `name`.

    `source` is a bundle's folder; or a prompt's in a store, for its newest version, with `:3` behind it for another; or
    a store that holds one prompt only. All is checked before anything is stored: sizes, hashes, the schema, and
    whatever `check` raises for. What it includes is stored too, where this table does not have it. The message stays
    its author's, unless `message` is given, and the origin says where it comes from; its tags, and `tags`, are added
    to the prompt. Raises ForewordError.
    """
    if name is not None and not PROMPT_NAME.fullmatch(name):
        raise UsageError(f"prompt name {name!r}: take a-z, 0-9, '.', '_' and '-', 100 characters at most")
    if alias is not None:
        check_alias(alias)
    tags = [check_tag(tag) for tag in tags]
    place, folder = _find(str(source))
    manifest = _manifest(place, folder)
    where = "/".join(filter(None, (place.shown.rstrip("/"), folder)))
    prompt = bundle.read(manifest, lambda file, size: place.read("/".join(filter(None, (folder, file))), size), where)
    if check is not None:
        check(prompt)
    if name is not None:
        prompt = prompt.replace(name=name)
    message = message or manifest.message or f"pulled from {where}"
    origin = {"pulled from": where, "pulled version": manifest.ref, "pulled author": manifest.author}
    parts: list[str] = []
    whole = _with_parts(table, prompt, origin, parts)
    stored = table.put(whole, alias, message, origin=origin, tags=[*manifest.tags, *tags])
    return Pulled(stored, manifest, tuple(parts))


def _with_parts(table: PromptTable, prompt: Prompt, origin: Mapping[str, str], parts: list[str]) -> Prompt:
    """`prompt` as this table pins it. What it includes is stored where the table has no such version, of whatever age;
    `parts` takes up which.
    """
    includes = {}
    for ref, partial in prompt.includes.items():
        part = _with_parts(table, partial.prompt, origin, parts)
        version = table.version_of(part.name, part.digest)
        if version is None:
            message = f"included by {prompt.name}, pulled from {origin['pulled from']}"
            stored = table.put(part, message=message, origin=origin)
            version = stored.version
            parts.append(stored.ref)
        includes[ref] = Partial(part, version)
    return prompt.replace(includes=includes) if includes else prompt


def _find(source: str) -> tuple[Place, str]:
    """The place and the folder in it where a bundle lies."""
    place = Place(source)
    names = place.names()
    if MANIFEST in names:
        return place, ""
    if newest := _newest(place, "", source):
        return place, newest
    held = [name for name in names if PROMPT_NAME.fullmatch(name) and any(map(FOLDER.fullmatch, place.names(name)))]
    if len(held) > 1:
        raise UsageError(
            f"{place.shown!r} holds {len(held)} prompts: {', '.join(held[:10])}; name one: {place.shown}/{held[0]}"
        )
    if held and (newest := _newest(place, held[0], source)):
        return place, newest
    match = LAST.fullmatch(source)
    if match is not None and match[3] and match[1]:
        place = Place(match[1])
        found = (
            [folder for _, folder in _versions(place, match[2], int(match[3]))]
            if PROMPT_NAME.fullmatch(match[2])
            else []
        )
        if len(found) == 1:
            return place, found[0]
        _refuse_many(found, source)
    raise ForewordError(
        _instead(match) or f"there is no bundle at {place.shown!r}; 'foreword prompts push' puts one there"
    )


def _instead(match: re.Match[str] | None) -> str | None:
    """What the store holds where it does not hold `NAME` or `NAME:VERSION`; None where that is no store."""
    if match is None or not match[1].strip("/"):
        return None
    try:
        place, name = Place(match[1].rstrip("/") or "/"), redact(match[2])[:100]
        if (
            match[3]
            and PROMPT_NAME.fullmatch(name)
            and (found := sorted({number for number, _ in _versions(place, name)}))
        ):
            there = ", ".join(map(str, found[-MAX_TOLD:]))
            return f"{place.shown!r} holds no version {match[3]} of {name!r}; its versions there: {there}"
        held = [one for one in place.names()[:MAX_LOOKED] if PROMPT_NAME.fullmatch(one) and any(_versions(place, one))]
    except ForewordError:  # what is above an address need not be a place
        return None
    return f"{place.shown!r} holds no {name!r}; {suggestion(name, held, 'prompts there')}" if held else None


def _newest(place: Place, name: str, source: str) -> str | None:
    """The newest version that is all there: of one that is just being pushed the manifest is still missing."""
    found: dict[int, list[str]] = {}
    for version, folder in _versions(place, name):
        found.setdefault(version, []).append(folder)
    for version in sorted(found, reverse=True):
        whole = [folder for folder in found[version] if MANIFEST in place.names(folder)]
        _refuse_many(whole, source)
        if whole:
            return whole[0]
    return None


def _refuse_many(found: list[str], source: str) -> None:
    if len(found) > 1:
        raise ForewordError(
            f"{redact(source)!r}: two people pushed the same version at once, {' and '.join(found)}; name one of them"
        )


def _versions(place: Place, name: str, version: int | None = None) -> Iterator[tuple[int, str]]:
    """The versions of a prompt in a store, and the folder of each."""
    for entry in place.names(name):
        match = FOLDER.fullmatch(entry)
        if match and version in (None, int(match[1])):
            yield int(match[1]), f"{name}/{entry}" if name else entry


def _manifest(place: Place, folder: str) -> Manifest:
    path = f"{folder}/{MANIFEST}" if folder else MANIFEST
    data = place.read(path, MAX_MANIFEST)
    source = f"{place.shown.rstrip('/')}/{path}"
    if len(data) > MAX_MANIFEST:
        raise ForewordError(f"{source!r} is larger than {MAX_MANIFEST:,} bytes; that is no manifest")
    manifest = bundle.read_manifest(data, source)
    last = folder.rpartition("/")[2]
    if FOLDER.fullmatch(last) and last != manifest.folder:
        raise ForewordError(f"{source!r} is {manifest.ref!r} with another digest than its folder says; do not trust it")
    return manifest


def _write_index(place: Place) -> None:
    """What the store holds, for a person who looks into it. Made anew from its folders, so that it mends itself."""
    try:
        if not place.read(INDEX, MAX_TEXT).startswith(TITLE.encode()):
            return  # somebody else's file
    except MissingError:
        pass
    lines = [TITLE, "Pull one with `foreword prompts pull` and the address of its folder.", ""]
    lines += ["| prompt | version | |", "|---|---|---|"]
    for name in place.names():
        if PROMPT_NAME.fullmatch(name) and FOLDER.fullmatch(name) is None:
            lines += [
                f"| {name} | {version} | [{folder}]({folder}/{CARD}) |"
                for version, folder in sorted(_versions(place, name), reverse=True)
            ]
    place.write(INDEX, ("\n".join(lines) + "\n").encode())
