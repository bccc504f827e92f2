"""Pieces carried through a text by marks that nothing in it can forge. Knows no template and no tokenizer."""

import secrets

from foreword.prompts.pieces import Piece, Text

OPENS, CLOSES = "\ue000", "\ue001"
"""For private use, so that no text that people write holds them by chance."""


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
        found: list[Piece] = [Text(head)] if head else []
        for part in rest:
            index, tail = part.split(CLOSES, 1)
            found.append(self._pieces[int(index)])
            if tail:
                found.append(Text(tail))
        return found
