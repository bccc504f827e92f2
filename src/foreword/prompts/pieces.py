"""What a rendered prompt consists of. Knows no template language and no tokenizer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """Plain text, variables filled in."""

    text: str


@dataclass(frozen=True)
class Virtual:
    """`count` virtual tokens: rows `start` to `start + count` of the prompt's vectors."""

    start: int
    count: int


@dataclass(frozen=True)
class Turn:
    """A chat turn begins here; it lasts until the next one."""

    role: str
    """`system`, `user` or `assistant`."""


Piece = Text | Virtual | Turn
