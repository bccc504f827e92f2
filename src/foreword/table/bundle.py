"""A prompt as files that a person can read and a program can check. Knows no places; nothing is read or written here.

`NAME.prompt`, `NAME.safetensors` for a soft prompt, `card.md`, and `bundle.json`, the manifest: what the prompt is,
where it comes from, and the sha256 of each file and of itself. Bundles come from strangers: every name is one that is
expected, every size is known before a file is read, and nothing in them is ever run.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foreword.errors import ForewordError
from foreword.forms import validation_message
from foreword.prompts import MAX_INCLUDES, MAX_TEMPLATE, MAX_VECTOR_BYTES, PROMPT_NAME, Prompt, SoftTokens
from foreword.redact import redact, secret_line
from foreword.table.includes import Partials
from foreword.table.refs import TAG, parse_ref
from foreword.table.stored import Stored

MANIFEST, CARD = "bundle.json", "card.md"
VERSION = 1
MAX_MANIFEST = 200_000
"""Bytes."""
MAX_TEXT = 8 * MAX_TEMPLATE
"""Bytes of a prompt file or a card."""
PART = re.compile(rf"(?:{PROMPT_NAME.pattern})\+[1-9][0-9]{{0,8}}\.prompt", re.ASCII)
"""The file of an included prompt, by its name and version where it comes from."""
MAX_NOTE = 10_000
"""Characters of a message."""

MAX_TAGS = 100

Tag = Annotated[str, Field(pattern=f"^(?:{TAG.pattern})$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Note = Annotated[str, Field(max_length=MAX_NOTE)]


class File(BaseModel):
    """What a file is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: Digest
    size: int = Field(ge=0, le=MAX_VECTOR_BYTES)


class Manifest(BaseModel):
    """`bundle.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    foreword_bundle: Literal[1]
    """Of this form."""
    name: str = Field(max_length=100)
    version: int = Field(ge=1, le=999_999_999)
    """In the table that it comes from."""
    kind: Literal["hard", "soft"]
    digest: Digest
    """Of the prompt: its file and its vectors."""
    virtual_tokens: int = Field(ge=0)
    backbone: Note | None = None
    fingerprint: Note | None = None
    created: datetime
    author: Note
    message: Note
    tags: tuple[Tag, ...] = Field(default=(), max_length=MAX_TAGS)
    """Of the prompt, when it was pushed first."""
    files: dict[str, File]
    sha256: Digest
    """Of this manifest without this line, as JSON with its keys in order."""

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def folder(self) -> str:
        """Where a store keeps it: version, and the beginning of the digest."""
        return f"{self.version}-{self.digest[:12]}"


def build(prompt: Prompt, entry: Stored, card: str) -> dict[str, bytes]:
    """The files of a bundle by name; the manifest is the last one.

    Raises ForewordError where the prompt holds a key or a password: whoever gets the bundle could use it.
    """
    soft = prompt.soft
    prompts = {f"{prompt.name}.prompt": prompt.to_text(), **_parts(prompt)}
    for name, text in prompts.items():
        if (line := secret_line(text)) is not None:
            what = entry.ref if name == f"{prompt.name}.prompt" else name
            raise ForewordError(
                f"line {line} of {what!r} holds what looks like a key or a password; "
                "take it out and store a new version before you share it"
            )
    files = {CARD: card.encode(), **{name: text.encode() for name, text in prompts.items()}}
    if soft is not None:
        files[f"{prompt.name}.safetensors"] = soft.to_bytes()
    fields: dict[str, Any] = {
        "foreword_bundle": VERSION,
        "name": prompt.name,
        "version": entry.version,
        "kind": entry.kind,
        "digest": prompt.digest,
        "virtual_tokens": prompt.virtual_tokens,
        "backbone": redact(soft.backbone)[:MAX_NOTE] if soft is not None else None,
        "fingerprint": soft.fingerprint if soft is not None else None,
        "created": entry.created.isoformat(),
        "author": redact(entry.author)[:MAX_NOTE],
        "message": redact(entry.message)[:MAX_NOTE],
        "tags": [*entry.tags[:MAX_TAGS]],
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in sorted(files.items())
        },
    }
    return {**files, MANIFEST: _written(fields)}


def _parts(prompt: Prompt) -> dict[str, str]:
    """The files of what a stored prompt includes, to the last one; '+' stands in no prompt's name."""
    files: dict[str, str] = {}
    for ref, partial in prompt.includes.items():
        name = f"{parse_ref(ref).name}+{partial.version}.prompt"
        files[name] = partial.prompt.to_text()
        files |= _parts(partial.prompt)
    return files


def with_card(manifest: Manifest, card: bytes) -> dict[str, bytes]:
    """The two files that change where a bundle gets another card."""
    fields = manifest.model_dump(mode="json", exclude={"sha256"})
    fields["files"][CARD] = {"sha256": hashlib.sha256(card).hexdigest(), "size": len(card)}
    return {CARD: card, MANIFEST: _written(fields)}


def _written(fields: Mapping[str, Any]) -> bytes:
    document = {**fields, "sha256": _digest(fields)}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def read_manifest(data: bytes, source: str) -> Manifest:
    """Checks a manifest, all of it. Raises ForewordError that names `source` and the field, never a value."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ForewordError(f"{source!r} is no manifest of a bundle; push the prompt again")
    version = found.get("foreword_bundle")
    if isinstance(version, int) and version > VERSION:
        raise ForewordError(f"{source!r} was written by a newer foreword; upgrade this one")
    try:
        manifest = Manifest.model_validate_json(json.dumps(found))
    except (ValidationError, ValueError, RecursionError) as error:
        said = f"{source!r} is no plain JSON"
        if isinstance(error, ValidationError):
            said = validation_message(repr(source), error, values=False)
        raise ForewordError(f"{said}; push the prompt again") from None
    if not PROMPT_NAME.fullmatch(manifest.name):
        raise ForewordError(f"{source!r}, 'name': {manifest.name!r} is no name of a prompt")
    if _digest({key: value for key, value in found.items() if key != "sha256"}) != manifest.sha256:
        raise ForewordError(f"{source!r} is altered: its content has another sha256; push the prompt again")
    _check_files(manifest, source)
    return manifest


def _check_files(manifest: Manifest, source: str) -> None:
    """The files are those that a bundle has, under their own names, and no larger than they can be."""
    expected = {f"{manifest.name}.prompt": MAX_TEXT, CARD: MAX_TEXT, f"{manifest.name}.safetensors": MAX_VECTOR_BYTES}
    parts = [name for name in manifest.files if PART.fullmatch(name)]
    if len(parts) > MAX_INCLUDES:
        raise ForewordError(f"{source!r} lists {len(parts)} included prompts, {MAX_INCLUDES} at most")
    expected |= dict.fromkeys(parts, MAX_TEXT)
    for name, file in manifest.files.items():
        if name not in expected:
            raise ForewordError(f"{source!r} lists {name!r:.100}, which is no file of a bundle of {manifest.name!r}")
        if file.size > expected[name]:
            raise ForewordError(f"{source!r}: {name!r} has {file.size:,} bytes, {expected[name]:,} at most")
    for name in (f"{manifest.name}.prompt", CARD):
        if name not in manifest.files:
            raise ForewordError(f"{source!r} lists no {name!r}; push the prompt again")


def read(manifest: Manifest, load: Callable[[str, int], bytes], source: str) -> Prompt:
    """The prompt of a bundle. `load(name, size)` gives at most `size` + 1 bytes of a file.

    Raises ForewordError where a file or the prompt is not what the manifest says.
    """
    files: dict[str, bytes] = {}
    for name, file in manifest.files.items():
        data = load(name, file.size)
        if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
            raise ForewordError(f"{source!r}: {name!r} is not what {MANIFEST!r} says; it is altered or only half there")
        files[name] = data
    prompt = _prompt(manifest, files, source)
    soft = prompt.soft
    facts = {
        "name": prompt.name,
        "digest": prompt.digest,
        "kind": "soft" if prompt.virtual_tokens else "hard",
        "virtual_tokens": prompt.virtual_tokens,
        "fingerprint": soft.fingerprint if soft is not None else None,
    }
    for field, value in facts.items():
        if getattr(manifest, field) != value:
            raise ForewordError(f"{source!r}: the {field!r} in {MANIFEST!r} is not that of the prompt; do not trust it")
    return prompt


def _prompt(manifest: Manifest, files: Mapping[str, bytes], source: str) -> Prompt:
    """The one place where a bundle's files become a prompt; what it includes comes from the bundle alone."""
    vectors = files.get(f"{manifest.name}.safetensors")
    soft = SoftTokens.from_bytes(vectors, f"{source}/{manifest.name}.safetensors") if vectors is not None else None

    def text(name: str) -> str:
        if name not in files:
            raise ForewordError(f"{source!r} holds no {name!r}; push the prompt again")
        try:
            return files[name].decode()
        except UnicodeDecodeError:
            raise ForewordError(f"{source!r}: {name!r} is not UTF-8") from None

    def part(ref: str, partials: Partials) -> Prompt:
        at = parse_ref(ref)
        file = f"{at.name}+{at.version}.prompt"
        partials.charge(text(file))
        found = Prompt.from_text(text(file), f"{source}/{file}", resolve=partials)
        if found.name != at.name:  # it would be stored under that name
            raise ForewordError(f"{source!r}: {file!r} holds a prompt of another name, {found.name!r}; do not trust it")
        return found

    resolve = Partials(part)
    file = f"{manifest.name}.prompt"
    return Prompt.from_text(text(file), f"{source}/{file}", soft=soft, resolve=resolve)


def _digest(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
