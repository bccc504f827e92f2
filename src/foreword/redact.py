"""Passwords and keys in texts that others will read: taken out, or found. Knows what they look like; knows no owner."""

import re

MASK = "•••"

ADDRESS = re.compile(r"(?<=://)[^/?#@\s'\"]*@")
"""A name and a password in front of a host."""
PARAMETER = re.compile(
    r"(?i)(?<![a-z0-9])((?:api[-_]?key|access[-_]?key|secret|token|passw(?:or)?d|pwd|authorization|signature|sig)"
    r"[\"']?\s*[=:]\s*[\"']?(?:bearer\s+)?)[^\s\"'&,;}]{6,}"
)
KEY = re.compile(
    r"(?<![\w-])(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|A(?:KIA|SIA)[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Keys of well-known services by their beginnings, tokens in three parts, private keys."""


def redact(text: str) -> str:
    """`text` with what looks like a password or a key masked."""
    text = ADDRESS.sub(f"{MASK}@", text)
    text = PARAMETER.sub(rf"\g<1>{MASK}", text)
    return KEY.sub(MASK, text)


def secret_line(text: str) -> int | None:
    """The line of the first key or password in an address; None where there is none.

    Words such as `token=…` do not count: a prompt may speak of them.
    """
    found = [match.start() for match in KEY.finditer(text)]
    found += [match.start() for match in ADDRESS.finditer(text) if ":" in match[0]]
    return text.count("\n", 0, min(found)) + 1 if found else None
