"""What a rendered prompt consists of. Knows no template language and no tokenizer."""

from collections.abc import Sequence
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


def pieces_text(pieces: Sequence[Piece]) -> str:
    """For people: text, with a line for each turn and a mark for virtual tokens."""

    def mark(piece: Piece) -> str:
        if isinstance(piece, Text):
            return piece.text
        if isinstance(piece, Turn):
            return f"\n<{piece.role}>\n"
        return f"<virtual {piece.start} to {piece.start + piece.count - 1}>"

    return "".join(map(mark, pieces)).removeprefix("\n")
