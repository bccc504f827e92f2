"""How likely a text's own tokens are, a chunk of it between two steps. Knows the backbone; knows no event loop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreword.backbone import Backbone
from foreword.errors import clear_frames
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.queueing import FairQueue
from foreword.serve.engines.seam import ClosedError, DeadlineError, ModelError, Request, Token
from foreword.serve.engines.text import Detokenizer


@dataclass
class TextJob:
    """A request for the log-probabilities of a text's own tokens."""

    prepared: Prepared
    done: Callable[[Sequence[Token] | Exception], None]
    cancelled: bool = False
    request: Request = field(init=False)
    cache: Any = None
    read: int = 0
    """Tokens that have been prefilled."""
    tokens: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.request = self.prepared.request

    def fail(self, error: Exception) -> None:
        """End it by what went wrong, and free what the error's frames hold."""
        clear_frames(error)
        self.done(error)


class TextScorer:
    """Scores what waits, at most `chunk` tokens at a time; one text after another, so that only one takes memory."""

    def __init__(self, backbone: Backbone, chunk: int) -> None:
        self._backbone, self._chunk = backbone, chunk
        self._now: TextJob | None = None
        self._detokenizer: Detokenizer

    @property
    def idle(self) -> bool:
        """Whether no text is being scored."""
        return self._now is None

    def run(self, jobs: FairQueue[TextJob]) -> None:
        """Score the next chunk of the text whose turn it is."""
        if self._now is None and len(jobs):
            self._now, self._detokenizer = jobs.pop(), Detokenizer(self._backbone.tokenizer)
            self._now.cache = self._backbone.embedder.new_cache(())
        if (job := self._now) is None:
            return
        try:
            if job.cancelled:
                raise ClosedError("nobody waits for it any more")
            if job.request.deadline is not None and job.request.deadline <= time.monotonic():
                raise DeadlineError("the deadline has passed before the text was read")
            if self._chunk_of(job):
                self._now = None
                job.done(job.tokens)
        except Exception as error:
            self.stop(error)

    def stop(self, error: Exception) -> None:
        """Give up the text that is being scored."""
        if self._now is not None:
            job, self._now = self._now, None
            job.fail(error)

    def _chunk_of(self, job: TextJob) -> bool:
        """Score a chunk; whether it was the last one."""
        backbone, ids, start = self._backbone, job.prepared.ids, job.read
        end = min(start + self._chunk, len(ids))
        output = backbone.model(
            inputs_embeds=backbone.embedder.embed_row(ids[start:end])[None], use_cache=True,
            **{backbone.embedder.takes_cache: job.cache},
        )  # fmt: skip
        logits = output.logits[0]
        logprobs = torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if not logprobs.amax(1).isfinite().all():
            raise ModelError(f"prompt {job.request.key!r}: the model gives non-finite logits")
        if start == 0:
            job.tokens.append(Token(self._detokenizer.push(int(ids[0])), (int(ids[0]),), None, ()))
        following = ids[start + 1 : end + 1].tolist()
        if end == len(ids):
            following.append(int(logprobs[-1].argmax()))
        job.tokens += self._tokens(logprobs, following, job.request.logprobs)
        job.read = end
        return end == len(ids)

    def _tokens(self, logprobs: Tensor, ids: list[int], count: int) -> list[Token]:
        """Tokens `ids` by log-probabilities [n, V], with the `count` likeliest in the place of each."""
        values, best = logprobs.topk(min(count, logprobs.shape[1]))
        chosen = logprobs[range(len(ids)), ids].tolist()
        decode = self._backbone.tokenizer.decode
        return [
            Token(
                self._detokenizer.push(token),
                (token,),
                value,
                tuple((decode([i]), v) for i, v in zip(*top, strict=True)),
            )
            for token, value, top in zip(ids, chosen, zip(best.tolist(), values.tolist(), strict=True), strict=True)
        ]
