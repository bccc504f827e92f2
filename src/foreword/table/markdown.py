"""Texts of strangers in Markdown: shown as they are, whatever signs they hold. Knows CommonMark; knows no prompts."""

import re
import unicodedata

SIGNS = re.compile(r"[\\`*_\[\]<>|~&!#$:@]|(?<=www)\.", re.IGNORECASE)
BEGINS = re.compile(r"\A(\d*)([-+=.)])")
"""What means something inside a line, or, below, at its beginning; ':' and '@' would make links of addresses."""
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of signs that nobody sees, or that turn the direction of others."""


def inline(text: str, limit: int = 1_000) -> str:
    """One line of text in which no sign means anything and no sign is hidden."""
    text = visible(" ".join(text.split()))
    text = f"{text[: limit - 1]}…" if len(text) > limit else text
    return BEGINS.sub(r"\1\\\2", SIGNS.sub(r"\\\g<0>", text))


def block(text: str, language: str = "") -> str:
    """Text in a fence that is longer than any in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def visible(text: str) -> str:
    """Text with its hidden signs written out by number; line ends and tabs stay."""
    return "".join(
        f"\\u{ord(sign):04x}" if unicodedata.category(sign) in HIDDEN and sign not in "\n\t" else sign for sign in text
    )
