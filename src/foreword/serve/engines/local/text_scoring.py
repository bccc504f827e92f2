"""How likely a text's own tokens are, a piece of it between two steps. Knows the backbone; knows no event loop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreword.backbone.backbone import Backbone
from foreword.errors import let_go
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.queueing import FairQueue
from foreword.serve.engines.seam import ClosedError, DeadlineError, ModelError, Request, Token
from foreword.serve.engines.text import Decoder


@dataclass
class Reading:
    """A request to read a text and write nothing."""

    prepared: Prepared
    done: Callable[[Sequence[Token] | Exception], None]
    cancelled: bool = False
    request: Request = field(init=False)
    cache: Any = None
    read: int = 0
    """Tokens that have gone through the model."""
    tokens: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.request = self.prepared.request

    def fail(self, error: Exception) -> None:
        let_go(error)
        self.done(error)


class TextReader:
    """Reads what waits, at most `chunk` tokens at a time; one text after another, so that only one takes memory."""

    def __init__(self, backbone: Backbone, chunk: int) -> None:
        self._backbone, self._chunk = backbone, chunk
        self._now: Reading | None = None
        self._decoder: Decoder

    @property
    def idle(self) -> bool:
        return self._now is None

    def run(self, readings: FairQueue[Reading]) -> None:
        """The next piece of the text whose turn it is."""
        if self._now is None and len(readings):
            self._now, self._decoder = readings.pop(), Decoder(self._backbone.tokenizer)
            self._now.cache = self._backbone.embedder.new_cache(())
        if (reading := self._now) is None:
            return
        try:
            if reading.cancelled:
                raise ClosedError("nobody waits for it any more")
            if reading.request.deadline is not None and reading.request.deadline <= time.monotonic():
                raise DeadlineError("the deadline has passed before the text was read")
            if self._piece(reading):
                self._now = None
                reading.done(reading.tokens)
        except Exception as error:
            self.stop(error)

    def stop(self, error: Exception) -> None:
        """Give up what is being read."""
        if self._now is not None:
            reading, self._now = self._now, None
            reading.fail(error)

    def _piece(self, reading: Reading) -> bool:
        """Read a piece; whether it was the last one."""
        backbone, ids, start = self._backbone, reading.prepared.ids, reading.read
        end = min(start + self._chunk, len(ids))
        output = backbone.model(
            inputs_embeds=backbone.embedder.embed_row(ids[start:end])[None], use_cache=True,
            **{backbone.embedder.takes_cache: reading.cache},
        )  # fmt: skip
        logits = output.logits[0]
        found = torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if not found.amax(1).isfinite().all():
            raise ModelError(f"prompt {reading.request.key!r}: the model's answer is no number")
        if start == 0:
            reading.tokens.append(Token(self._decoder.push(int(ids[0])), (int(ids[0]),), None, ()))
        following = ids[start + 1 : end + 1].tolist()
        if end == len(ids):
            following.append(int(found[-1].argmax()))
        reading.tokens += self._told(found, following, reading.request.logprobs)
        reading.read = end
        return end == len(ids)

    def _told(self, found: Tensor, ids: list[int], count: int) -> list[Token]:
        """Tokens `ids` by log-probabilities [n, V], with the `count` likeliest in the place of each."""
        values, best = found.topk(min(count, found.shape[1]))
        chosen = found[range(len(ids)), ids].tolist()
        decode = self._backbone.tokenizer.decode
        return [
            Token(
                self._decoder.push(token), (token,), value, tuple((decode([i]), v) for i, v in zip(*top, strict=True))
            )
            for token, value, top in zip(ids, chosen, zip(best.tolist(), values.tolist(), strict=True), strict=True)
        ]
