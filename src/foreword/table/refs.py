"""How a stored prompt is called: `name`, `name@alias` or `name:version`. Knows no database."""

import re
from dataclasses import dataclass

from foreword.errors import UsageError
from foreword.prompts import PROMPT_NAME

LATEST = "latest"
ALIAS = re.compile(r"[a-z](?:[a-z0-9._-]{0,48}[a-z0-9])?", re.ASCII)
TAG = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,48}[a-z0-9])?", re.ASCII)
VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


@dataclass(frozen=True)
class Ref:
    """A name, and at most one of alias and version; with neither, the newest version is meant."""

    name: str
    alias: str | None = None
    version: int | None = None


def parse_ref(text: str) -> Ref:
    """Reads a reference. Raises UsageError when it is not of one of the three forms."""
    name, mark, rest = re.fullmatch(r"([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if "@" in rest or ":" in rest:
        raise UsageError(f"{text!r:.200} names an alias and a version; give one of them: 'name@alias' or 'name:3'")
    if not PROMPT_NAME.fullmatch(name):
        raise UsageError(f"{text!r:.200} is no stored prompt: write 'name', 'name@alias' or 'name:3'")
    if mark == ":":
        if not VERSION.fullmatch(rest):
            raise UsageError(
                f"version {rest!r:.40} in {text!r:.200} is no whole number from 1; an alias takes '@': 'name@prod'"
            )
        return Ref(name, version=int(rest))
    if mark == "@" and VERSION.fullmatch(rest):
        raise UsageError(f"{text!r:.200}: an alias does not begin with a digit; a version takes ':': '{name}:{rest}'")
    if mark == "@" and rest != LATEST:
        return Ref(name, alias=check_alias(rest))
    return Ref(name)


def check_alias(alias: str) -> str:
    """`alias` itself, when an alias may be called that. Raises UsageError."""
    if alias == LATEST:
        raise UsageError(f"{LATEST!r} always means the newest version and cannot be moved; choose another alias")
    if not ALIAS.fullmatch(alias):
        raise UsageError(f"alias {alias!r:.100}: take a letter, then a-z, 0-9, '.', '_' and '-', 50 characters at most")
    return alias


def check_tag(tag: str) -> str:
    """`tag` itself, when a tag may be called that. Raises UsageError."""
    if not TAG.fullmatch(tag):
        raise UsageError(f"tag {tag!r}: take a-z, 0-9, '.', '_' and '-', 50 characters at most")
    return tag
