"""What stands beside a version: who stored it, why, and how it was made; never a password. Knows no database."""

import getpass
import json
from collections.abc import Mapping

from foreword.errors import UsageError
from foreword.redact import redact

MAX_ORIGIN = 10_000
"""Characters of an origin as JSON."""


def author() -> str:
    """The user's name on this machine."""
    try:
        return plain(getpass.getuser())
    except (OSError, KeyError, ImportError):  # a container's user id often has no name
        return "unknown"


def plain(text: str) -> str:
    """Without what no database takes: zero bytes, and halves of characters from a shell with another encoding."""
    return text.replace("\0", "").encode(errors="replace").decode()


def note(text: str) -> str:
    """A plain text without the passwords and keys in it, for all who share the table read it."""
    return redact(plain(text))


def origin_text(origin: Mapping[str, str]) -> str:
    """`origin` as JSON. Raises UsageError when it is no mapping of texts to texts, or too long."""
    for key, value in origin.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise UsageError(f"origin {key!r}: {value!r:.80} is not text; write it as text")
    text = json.dumps({note(key): note(value) for key, value in origin.items()}, ensure_ascii=False)
    if len(text) > MAX_ORIGIN:
        raise UsageError(f"the origin has {len(text):,} characters, {MAX_ORIGIN:,} at most; keep long texts elsewhere")
    return text
