"""A call under way: its rows in the engine, their pieces in the order in which they come, and what is told of them.

Every row's iterator lives and ends in one task of its own, so that a client that goes away, a limit or an error frees
it at once. Knows the engine's seam; knows no wire format.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

from foreword.backbone import Answer
from foreword.serve.engines.seam import (
    ClosedError,
    DeadlineError,
    Finished,
    ModelError,
    Request,
    TextScoringEngine,
    Token,
)
from foreword.serve.http import spans
from foreword.serve.http.refusals import Refusal, bad, refusal
from foreword.serve.http.service import Service
from foreword.serve.log import failure

Piece = tuple[int, Token | Finished]
"""The number of a row, from 0, and the next item of its answer."""


class RunningCall:
    """Rows of one prompt in the engine, from the moment it is entered until it is closed.

    `notes` is what the log line of the HTTP request will say.
    """

    def __init__(
        self, service: Service, operation: str, model: str, rows: Sequence[Request], notes: dict[str, Any]
    ) -> None:
        self._service, self._rows, self._notes, self._key = service, rows, notes, rows[0].key
        self._pieces: asyncio.Queue[tuple[int, Token | Finished | Exception]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._began = time.monotonic()
        self._last = [0.0] * len(rows)
        self._error: str | None = None
        self._closed = False
        self.finished: list[Finished | None] = [None] * len(rows)
        sampling = rows[0].sampling
        self._span = spans.begin(
            service.tracer, operation, model, self._key,
            max_tokens=sampling.max_tokens, temperature=sampling.temperature, top_p=sampling.top_p,
        )  # fmt: skip
        notes["prompt"] = self._key
        self._label = service.metrics.began(self._key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._error = kind.__name__ if kind is not None else None
        await self.close()

    async def pieces(self) -> AsyncIterator[Piece]:
        """The items of all rows as they come, until every row has finished. Raises Refusal where one cannot."""
        self._tasks = [asyncio.create_task(self._pump(i, row)) for i, row in enumerate(self._rows)]
        left = len(self._rows)
        while left:
            row, piece = await self._pieces.get()
            if isinstance(piece, Exception):
                self._error = type(piece).__name__
                raise self._refusal(piece) from None
            self._record(row, piece)
            if isinstance(piece, Finished):
                left -= 1
                if piece.reason in ("error", "deadline", "cancelled"):
                    self._error = piece.reason
                    raise _unfinished(piece)
            yield row, piece

    async def classify(self) -> Answer:
        """Score the one row's choices. Raises Refusal."""
        row = self._rows[0]
        try:
            async with asyncio.timeout_at(row.loop_deadline):
                answer = await self._service.engine.classify(row)
        except TimeoutError:
            raise refusal(DeadlineError()) from None
        except Exception as error:
            raise self._refusal(error) from None
        self._record(0, Finished("stop", answer.prompt_tokens, 0, answer.answer_tokens))
        return answer

    async def score_texts(self, write: int) -> list[list[Token]]:
        """The tokens of every row's own text, and `write` (0 or 1) behind them. Raises Refusal."""
        engine, texts = self._service.engine, list[list[Token]]()
        if not isinstance(engine, TextScoringEngine):
            raise bad("the engine of this server does not tell how likely a text is", "echo")
        for i, row in enumerate(self._rows):
            try:
                async with asyncio.timeout_at(row.loop_deadline):
                    *tokens, following = await engine.score_text(row)
            except TimeoutError:
                raise refusal(DeadlineError()) from None
            except Exception as error:
                raise self._refusal(error) from None
            self._record(i, Finished("length", len(tokens), 0, write))
            texts.append([*tokens, following] if write else tokens)
        return texts

    async def close(self) -> None:
        """Free every row that has not ended; may be called again."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        done = [finished for finished in self.finished if finished is not None]
        read, written = self.usage
        self._service.metrics.ended(self._label, time.monotonic() - self._began)
        self._notes |= {"prompt_tokens": read, "completion_tokens": written}
        spans.end(self._span, read, written, [finished.reason for finished in done], self._error)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def usage(self) -> tuple[int, int]:
        """Prompt tokens, once for equal rows as OpenAI counts them, and tokens written."""
        done = [(i, finished) for i, finished in enumerate(self.finished) if finished is not None]
        read = {id(self._rows[i].inputs): finished.prompt_tokens for i, finished in done}
        return sum(read.values()), sum(finished.completion_tokens for _, finished in done)

    @property
    def cached(self) -> int:
        """Those of the prompt tokens that stood in a prefix cache."""
        done = [(i, finished) for i, finished in enumerate(self.finished) if finished is not None]
        return sum({id(self._rows[i].inputs): finished.cached_tokens for i, finished in done}.values())

    async def _pump(self, i: int, row: Request) -> None:
        pieces: Any = None
        try:
            pieces = await self._service.engine.generate(row)
            async for piece in pieces:
                self._pieces.put_nowait((i, piece))
                if isinstance(piece, Finished):
                    return
            raise RuntimeError("the engine gave no end")
        except Exception as error:
            self._pieces.put_nowait((i, error))
        finally:
            if hasattr(pieces, "aclose"):
                await pieces.aclose()

    def _record(self, row: int, piece: Token | Finished) -> None:
        now, metrics = time.monotonic(), self._service.metrics
        if isinstance(piece, Finished):
            self.finished[row] = piece
            metrics.row(self._label, piece)
        elif self._last[row] == 0.0:
            metrics.first(self._label, now - self._began)
            self._notes.setdefault("first_token_seconds", round(now - self._began, 4))
        else:
            metrics.next(self._label, now - self._last[row])
        self._last[row] = now

    def _refusal(self, error: Exception) -> Refusal:
        answer = refusal(error)
        if answer.status == 500:
            failure("engine", error, id=self._rows[0].id, prompt=self._key)
        return answer


def _unfinished(finished: Finished) -> Refusal:
    kinds = {"deadline": DeadlineError, "cancelled": ClosedError}
    return refusal(kinds.get(finished.reason, ModelError)())
