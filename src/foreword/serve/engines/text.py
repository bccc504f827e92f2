"""Token ids to text as they come, and where a stop string ends it. Knows a tokenizer; knows no model."""

from collections.abc import Sequence
from typing import Any

HALF = "\ufffd"
"""What tokenizers write for bytes that are no character, or not yet."""
BYTES = 3
"""A character that is not complete yet has three bytes at most, each of which may show as one HALF."""
WINDOW, CONTEXT = 32, 8
"""The most tokens that are detokenized again for every new one, and those that are kept as its context."""


class Detokenizer:
    """Token ids to text, token by token: what is certain once a token is there, and never half a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._said = ""

    def push(self, token: int) -> str:
        """Take a token; the text that is certain now and was not before."""
        self._ids.append(token)
        text = self._decode(self._ids)
        whole = text.rstrip(HALF)
        if len(text) - len(whole) > BYTES:
            whole = text[:-BYTES]
        new = self._say(whole)
        if whole == text and len(self._ids) > WINDOW:
            self._ids = self._ids[-CONTEXT:]
            self._said = self._decode(self._ids)
        return new

    def end(self) -> str:
        """What was held back: bytes that will be no character any more."""
        return self._say(self._decode(self._ids))

    def _say(self, whole: str) -> str:
        new = whole[len(self._said) :]
        self._said += new
        return new

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class AnswerText:
    """An answer's text as it grows, held back while it may be the beginning of a stop string."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._detokenizer, self._stop = Detokenizer(tokenizer), stop
        self._held = ""
        self.stopped = False
        """Whether a stop string has been written; nothing follows then."""

    def push(self, token: int) -> str:
        """Take a token; the text that can be given away now."""
        return self._release(self._detokenizer.push(token), last=False)

    def end(self) -> str:
        """The rest, when no more tokens come."""
        return "" if self.stopped else self._release(self._detokenizer.end(), last=True)

    def _release(self, new: str, *, last: bool) -> str:
        text = self._held + new
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        keep = 0 if last else max((_begun(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _begun(text: str, stop: str) -> int:
    """How many of the last characters of `text` may be the first ones of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
