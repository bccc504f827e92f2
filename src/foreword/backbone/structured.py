"""Constrained decoding: answers that fit a JSON Schema, for no token is taken that could not go on to fit it.

Knows token ids, a tokenizer and schemas; knows no prompts and no weights. The grammar engine is llguidance, an extra.
"""

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from foreword.errors import ForewordError
from foreword.prompts import schema as schemas

if TYPE_CHECKING:
    from llguidance import LLMatcher

SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As most JSON is written, on one line: free blanks would let a model fill its tokens with them."""


class Grammars:
    """Schemas compiled for one tokenizer, whose texts end in one of `ends`. `name` is the backbone's, for errors."""

    def __init__(self, tokenizer: Any, ends: Sequence[int], name: str) -> None:
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise ForewordError(
                "JSON by a schema needs llguidance on a local backbone: pip install 'foreword[structured]'"
            ) from None
        self._engine, self._name = llguidance, name
        # Some configs name an end that is an ordinary word to the tokenizer; JSON may hold that word.
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        self._ends = [end for end in ends if end in special]
        self._lock = threading.Lock()
        self._compiled: dict[str, LLMatcher] = {}
        try:
            self._tokenizer = from_tokenizer(tokenizer, eos_token=self._ends or None)
        except Exception as error:  # the engine raises plain ValueErrors, and others from deeper down
            raise ForewordError(
                f"the tokenizer of {name!r} cannot take part in constrained decoding: {error!s:.200}; "
                "ask for choices or text"
            ) from error

    def constraint(self, schema: schemas.Schema, rows: int) -> "Constraint":
        """What constrains a batch of `rows` to `schema`, for one call of generate. Raises ForewordError where
        the grammar engine cannot take the schema.
        """
        text = json_grammar(schema)
        with self._lock:
            if text not in self._compiled:
                matcher = self._engine.LLMatcher(
                    self._tokenizer, self._engine.LLMatcher.grammar_from_lark(text), log_level=0
                )
                if matcher.is_error():
                    reason = matcher.get_error().splitlines()[0]
                    raise ForewordError(f"the schema cannot constrain {self._name!r}: {reason}; simplify it")
                self._compiled = {text: matcher}  # the newest only: compiling takes milliseconds
            first = self._compiled[text]
        return Constraint(schema, [first.deep_copy() for _ in range(rows)], self._tokenizer, self._ends)


def json_grammar(schema: schemas.Schema) -> str:
    """All texts that fit `schema`, as llguidance's dialect of Lark has it.

    A space may stand before them: behind "Answer:" that is how a model's own words begin.
    """
    text = json.dumps(schemas.rewritten(schemas.closed(schema), _decimals) | {"x-guidance": SPELLING})
    return f'start: " "? answer\nanswer: %json {text}'


def _decimals(node: dict[str, Any]) -> dict[str, Any]:
    """A model that writes 0.333… would never come to an end: nine decimals, a whole number of billionths."""
    if "number" in schemas.types(node) and not {"enum", "const"} & set(node):
        node["multipleOf"] = 1e-9
    return node


class Constraint:
    """Which tokens may come next in each row of a batch, by one grammar a row; for one call of generate."""

    def __init__(self, schema: schemas.Schema, matchers: "list[LLMatcher]", tokenizer: Any, ends: list[int]) -> None:
        self._schema, self._matchers, self._tokenizer, self.ends = schema, matchers, tokenizer, ends
        self._ids: list[list[int]] = [[] for _ in matchers]
        self._done = [False] * len(matchers)
        words = (tokenizer.vocab_size + 31) // 32
        self._mask = np.zeros((len(matchers), words), dtype=np.int32)

    @property
    def options(self) -> dict[str, Any]:
        """What generate takes."""
        return {"logits_processor": [_Mask(self)], "stopping_criteria": [_End(self)]}

    def allowed(self, width: int) -> np.ndarray:
        """[B, V] bool: the tokens that may come next; all of them where a row has ended, and is only filled up."""
        from llguidance.numpy import fill_next_token_bitmask

        for row, matcher in enumerate(self._matchers):
            if not self._done[row]:
                fill_next_token_bitmask(matcher, self._mask, row)
        bits = np.unpackbits(self._mask.view(np.uint8), axis=1, bitorder="little")[:, :width].astype(bool)
        allowed = np.pad(bits, ((0, 0), (0, width - bits.shape[1])))
        allowed[self._done] = True
        allowed[~allowed.any(1)] = True  # the engine has given up: `accept` will end the row
        return allowed

    def accept(self, ids: Sequence[int]) -> list[bool]:
        """Go on by one token in every row that has not ended; which rows have ended now."""
        for row, token in enumerate(ids):
            if self._done[row]:
                continue
            matcher = self._matchers[row]
            if token in self.ends or not matcher.consume_token(token):
                self._done[row] = True
                continue
            self._ids[row].append(token)
            self._done[row] = matcher.is_stopped()
        return self._done

    def answer(self, row: int) -> tuple[str, Any, str | None, int]:
        """What a row has written: its text, the value, what is wrong with it, and the number of tokens."""
        ids = self._ids[row]
        text = self._tokenizer.decode_bytes(ids).decode(errors="replace").strip()
        try:
            return text, schemas.read(self._schema, text), None, len(ids)
        except ValueError:  # what is finished fits, so it is not
            problem, remedy = "", "raise max_tokens, or bound what the schema asks for with maxLength and maxItems"
            if self._matchers[row].is_error():  # it has limits of its own to what it works out
                problem, remedy = f" ({self._matchers[row].get_error():.200})", "simplify the schema"
            problem = f"the JSON is not finished after {len(ids):,} tokens: {text!r:.80}{problem}; {remedy}"
            return text, None, problem, len(ids)


class _Mask(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, constraint: Constraint) -> None:
        self.constraint = constraint

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - transformers gives both
        allowed = torch.from_numpy(self.constraint.allowed(scores.shape[1])).to(scores.device)
        constrained = scores.masked_fill(~allowed, -torch.inf)
        lost = constrained.isneginf().all(1, keepdim=True)  # where the model gives nothing allowed any chance at all
        return torch.where(lost, torch.zeros_like(scores).masked_fill(~allowed, -torch.inf), constrained)


class _End(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, constraint: Constraint) -> None:
        self.constraint = constraint

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002 - transformers gives both
        return torch.tensor(self.constraint.accept(input_ids[:, -1].tolist()), device=input_ids.device)
