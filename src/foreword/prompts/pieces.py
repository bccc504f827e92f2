"""What a rendered prompt consists of, and marks that carry it through a text which nothing in the text can forge.

Knows no template language and no tokenizer.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

OPENS, CLOSES = "\ue000", "\ue001"
"""For private use, so that no text that people write holds them by chance."""


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


class Marks:
    """Marks of one rendering, unguessable: no input turns into a role or a virtual token."""

    def __init__(self) -> None:
        self._opening = f"{OPENS}{secrets.token_hex(8)}"
        self._pieces: list[Piece] = []

    def mark(self, piece: Piece) -> str:
        """What stands for `piece` in the text."""
        self._pieces.append(piece)
        return f"{self._opening}{len(self._pieces) - 1}{CLOSES}"

    def pieces(self, text: str) -> list[Piece]:
        """`text` with every mark turned back into its piece, in order; empty texts are left out."""
        head, *rest = text.split(self._opening)
        pieces: list[Piece] = [Text(head)] if head else []
        for part in rest:
            index, tail = part.split(CLOSES, 1)
            pieces.append(self._pieces[int(index)])
            if tail:
                pieces.append(Text(tail))
        return pieces
