"""From a rendered prompt to token ids, by the backbone's own tokenizer and chat template. Knows no model weights.

A virtual token is an id below zero: `-1 - i` stands for row i of the prompt's vectors. One array of ids thus holds a
whole prompt, whatever stands where.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreword.errors import ForewordError
from foreword.prompts import Cut, Marks, Piece, Text, Turn, Virtual

Ids = np.ndarray
"""[T] int64; virtual tokens below zero."""

CONTEXT = 16
"""Characters before an answer that can change how it is cut into tokens."""


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model will read it."""

    ids: Ids
    tail: str | None
    """The last characters before the answer, spaces at the very end taken off: they belong to the answer's tokens.
    None where the answer is a text of its own."""
    cuts: tuple[Cut, ...] = ()
    """What was left out of its inputs."""


def encode(
    pieces: Sequence[Piece],
    tokenizer: Any,
    inputs: Mapping[str, object] | None = None,
    written: str = "",
    *,
    apart: bool = False,
) -> Encoded:
    """Token ids of a rendered prompt; closed by what ends a text where the answer stands `apart` from it.

    Where `inputs` spell out a special token, such as the end of a chat turn, that text becomes ordinary tokens: a row
    cannot open a turn of its own. They may do so one by one, or put together by a template that has no such token in
    what its author has `written`.

    Text between virtual tokens is tokenised in one run, as the tokenizer would see it in a plain prompt. With turns,
    the backbone's chat template writes the roles and opens the assistant's turn. Virtual tokens that open the template
    stand before everything, a beginning-of-sequence token and the first turn's role included, as they do in PEFT.
    """
    lead = next((i for i, piece in enumerate(pieces) if not isinstance(piece, Virtual)), len(pieces))
    ids = [i for piece in pieces[:lead] for i in _virtual(piece)]
    pieces = pieces[lead:]
    chat = any(isinstance(piece, Turn) for piece in pieces)
    hostile = inputs is not None and _spelled(pieces, inputs, written, tokenizer.all_special_tokens)
    runs = _chat_runs(pieces, tokenizer, split=hostile) if chat else [p for p in pieces if not isinstance(p, Turn)]
    if runs and isinstance(runs[-1], Text):
        runs[-1] = Text(
            runs[-1].text.rstrip(" ")
        )  # "Answer: " and " yes" are cut differently from "Answer:" and " yes"
    start, end = _ends(tokenizer)
    ids += [] if chat else start
    for run in runs:
        match run:
            case Text(text):
                ids += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=hostile and not chat)
            case Virtual():
                ids += _virtual(run)
    if not ids:
        raise ForewordError("the prompt renders to nothing; give its template some text")
    if apart:
        return Encoded(np.array([*ids, *end], dtype=np.int64), None)
    tail = runs[-1].text[-CONTEXT:] if runs and isinstance(runs[-1], Text) else ""
    return Encoded(np.array(ids, dtype=np.int64), tail)


def _spelled(pieces: Sequence[Piece], inputs: Mapping[str, object], written: str, special: Sequence[str]) -> bool:
    values = [str(value) for value in inputs.values()]
    whole = "".join(piece.text if isinstance(piece, Text) else "\0" for piece in pieces)
    alone = (any(token in value for value in values) for token in special)
    together = (token in whole and token not in written for token in special)
    return any(alone) or any(together)


def spans(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Where each token of `text` begins and ends, in characters; special tokens that it spells out are taken apart."""
    if not tokenizer.is_fast:
        raise ForewordError("this backbone's tokenizer does not tell where tokens end; take 'maxTokens' off the prompt")
    found = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    return [(int(start), int(end)) for start, end in found["offset_mapping"]]


def encode_answer(answer: str, tail: str | None, tokenizer: Any, *, ended: bool = False) -> tuple[int, ...]:
    """Token ids of `answer` behind a prompt that ends in `tail`, and of its end where it is to be `ended`.

    They are what the tokenizer adds to the tail's own tokens. A space goes between them unless the prompt ends a line,
    as chat templates do. A text of its own begins and ends as the tokenizer has it, always: a decoder is trained on
    whole answers, and only a whole one can be told from one that goes on ("good" from "good enough").
    """
    if tail is None:
        start, end = _ends(tokenizer)
        return (*start, *_tokens(answer, "", tokenizer), *end)
    return (*_tokens(answer, tail, tokenizer), *(_eos(tokenizer) if ended else []))


def _tokens(answer: str, tail: str, tokenizer: Any) -> list[int]:
    text = answer if not tail or tail[-1].isspace() else f" {answer}"
    before = tokenizer.encode(tail, add_special_tokens=False)
    both = tokenizer.encode(tail + text, add_special_tokens=False)
    if both[: len(before)] != before or len(both) == len(before):  # the answer grows together with the tail
        both, before = tokenizer.encode(text, add_special_tokens=False), []
    if len(both) == len(before):
        raise ForewordError(f"the answer {answer!r} has no tokens")
    tokens: list[int] = both[len(before) :]
    return tokens


def shared_prefix_length(rows: Sequence[Ids]) -> int:
    """F: how many tokens all `rows` begin with, leaving at least one to each.

    Comparing tokens needs no look at the template, and is right even where a variable's first letters grow together
    with the text before them.
    """
    shortest = min(map(len, rows)) - 1
    first = rows[0][:shortest]
    same = np.ones(shortest, dtype=bool)
    for row in rows[1:]:
        same &= row[:shortest] == first
    return shortest if same.all() else int(same.argmin())


def _virtual(piece: Piece) -> range:
    assert isinstance(piece, Virtual)
    return range(-1 - piece.start, -1 - piece.start - piece.count, -1)


def text_places(ids: Ids, before: int, limit: int) -> np.ndarray:
    """[T] how many text tokens stand before each text token, `before` counted; -1 for others and past `limit`."""
    places = before + np.cumsum(ids >= 0) - 1
    return np.where((ids >= 0) & (places < limit), places, -1)


def _ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What stands around a text: a beginning-of-sequence token, or nothing; what the tokenizer ends it with, or eos."""
    with_special = tokenizer.encode("a")
    without = tokenizer.encode("a", add_special_tokens=False)
    for length in range(len(with_special) - len(without) + 1):
        if with_special[length : length + len(without)] == without:
            return list(with_special[:length]), list(with_special[length + len(without) :]) or _eos(tokenizer)
    return [], _eos(tokenizer)


def _eos(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _chat_runs(pieces: Sequence[Piece], tokenizer: Any, *, split: bool) -> list[Piece]:
    """Text and virtual tokens as the chat template lays them out.

    With `split`, every special token that a turn's contents spell out is cut in two, behind its first character; all
    other text stays in the runs where it would have been, so that what rows begin with does not depend on it.
    """
    if not tokenizer.chat_template:
        raise ForewordError(
            "the prompt has chat turns, but this backbone's tokenizer has no chat template; use plain text"
        )
    blank = [isinstance(piece, Text) and not piece.text.strip() for piece in pieces]
    pieces = pieces[blank.index(False) :]
    if not isinstance(pieces[0], Turn):
        raise ForewordError("a chat prompt begins with a turn; put {{ system() }} or {{ user() }} first")
    marks = Marks()

    def cut(text: str) -> str:
        for token in sorted(tokenizer.all_special_tokens, key=len, reverse=True) if split else ():
            text = text.replace(token, f"{token[0]}{marks.mark(Text(''))}{token[1:]}") if token in text else text
        return text

    messages: list[dict[str, str]] = []
    for piece in pieces:
        match piece:
            case Turn(role):
                messages.append({"role": role, "content": ""})
            case Text(text):
                messages[-1]["content"] += cut(text)
            case Virtual():
                messages[-1]["content"] += marks.mark(piece)
    messages = [{**message, "content": message["content"].strip("\n")} for message in messages]
    open_turn = messages[-1]["role"] != "assistant"
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=open_turn, continue_final_message=not open_turn
        )
    except Exception as error:  # the template is the backbone's own program: it can raise anything
        raise ForewordError(f"the backbone's chat template refuses these turns: {error}") from error
    return marks.pieces(text)
