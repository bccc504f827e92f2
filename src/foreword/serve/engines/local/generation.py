"""One request on its way: tokens to read, tokens written, what is told to who asked. Knows no model and no batch."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from foreword.errors import clear_frames
from foreword.serve.engines.local.sampler import Sampler, TokenMask, constrain
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.seam import Finished, Token
from foreword.serve.engines.text import AnswerText


class Sink(Protocol):
    """Where the items of a row go."""

    def begun(self) -> None:
        """The row has a place in the batch."""
        ...

    def give(self, item: Token | Finished) -> None:
        """Take the next item."""
        ...


class Generation:
    """A request for text, from the queue to its last token: one row of the batch."""

    def __init__(
        self, prepared: Prepared, sink: Sink, tokenizer: Any, ends: Sequence[int], mask: TokenMask | None = None
    ) -> None:
        self.prepared, self.request = prepared, prepared.request
        self.sink, self.mask = sink, mask
        self.limit = self.request.sampling.limit(self.request.prompt)
        self.written: list[int] = []
        self.cached = 0
        """Tokens of the prompt that stood in a prefix cache."""
        self.cancelled = False
        self.over = False
        self.error: Exception | None = None
        """What went wrong, where something did."""
        self.non_finite = False
        """Whether its logits, or what it attended to, were not finite: its slot must be wiped."""
        self._ends = frozenset(ends)
        self._tokenizer = tokenizer
        self._sampler = Sampler(self.request.sampling)
        self._writer = AnswerText(tokenizer, self.request.sampling.stop if self.mask is None else ())

    @property
    def last(self) -> int:
        """The token that the model has to read next."""
        return self.written[-1]

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken, and nothing but its text is told."""
        return self._sampler.greedy and self.mask is None and not self.request.logprobs

    def take(self, logits: Tensor, best: int) -> None:
        """Go on by one token, after logits [V] of which `best` is the largest; ends the row where it is complete."""
        mask = self.mask
        token = best if self.greedy else self._sampler.sample(constrain(logits, mask.allowed() if mask else None))
        if mask is not None:
            mask.accept(token)
        # Some configs name an end that is an ordinary word to the tokenizer; a grammar knows which it is.
        if token in self._ends and (mask is None or mask.done):
            self.finish("stop")
            return
        self.written.append(token)
        text = self._writer.push(token)
        logprob, top = self._logprobs(logits, token)
        self.sink.give(Token(text, (token,), logprob, top))
        if self._writer.stopped or (mask is not None and mask.done):
            self.finish("stop")
        elif len(self.written) >= self.limit:
            self.finish("length")

    def finish(self, reason: Literal["stop", "length", "cancelled", "deadline"]) -> None:
        """Release the text that was held back, and say how it ended."""
        if self.over:
            return
        if rest := self._writer.end():
            self.sink.give(Token(rest, (), None, ()))
        self._end(reason)

    def fail(self, error: Exception) -> None:
        """End it by what went wrong: there is no more text, for the tokenizer may be what failed."""
        if self.over:
            return
        clear_frames(error)
        self.error = error
        self._end("error", str(error) or type(error).__name__)

    def _end(
        self, reason: Literal["stop", "length", "cancelled", "deadline", "error"], error: str | None = None
    ) -> None:
        self.over = True
        self.sink.give(Finished(reason, len(self.prepared.ids), self.cached, len(self.written), error))

    def _logprobs(self, logits: Tensor, token: int) -> tuple[float | None, tuple[tuple[str, float], ...]]:
        if not self.request.logprobs:
            return None, ()
        logprobs = torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
        values, ids = logprobs.topk(min(self.request.logprobs, len(logprobs)))
        top = tuple(
            (self._tokenizer.decode([i]), value) for i, value in zip(ids.tolist(), values.tolist(), strict=True)
        )
        return logprobs[token].item(), top
