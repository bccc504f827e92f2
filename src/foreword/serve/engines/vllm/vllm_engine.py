"""vLLM as an engine: prompts are rendered, encoded and checked here, and run by its own processes. Knows no HTTP.

Only what vLLM offers to everyone is used: AsyncLLM, inputs of ids and embeddings, a KV connector.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from foreword.backbone import Answer, Backbone, Constraint, Grammars, end_tokens
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.serve.engines.prepare import Prepared, Preparer, check_prompt, choose_answer
from foreword.serve.engines.queueing import FairPriority, Pace, QueueLimit
from foreword.serve.engines.seam import (
    ClosedError,
    DeadlineError,
    Finished,
    ModelError,
    Request,
    SchemaError,
    Stats,
    Token,
)
from foreword.serve.engines.text import AnswerText
from foreword.serve.engines.vllm.launch import launch
from foreword.serve.engines.vllm.prefixes import Prefixes
from foreword.serve.engines.vllm.requests import (
    Figures,
    TokenQuery,
    log_likelihoods,
    row_input,
    sampling_params,
    scoring_params,
    token_logprobs,
    token_queries,
)
from foreword.serve.log import failure

T = TypeVar("T")
Reason = Literal["stop", "length", "cancelled", "deadline", "error"]
LARGEST = 1e6
"""Beyond every vector that was ever learned, and too little to become infinite in any layer. One request that gives NaN
would leave it in blocks that others use after it."""
MAX_WAITING = 256
"""Requests that are accepted beyond those that vLLM runs at once, half of them for one prompt at most."""
SECONDS_TO_CANCEL, SECONDS_TO_END = 1.0, 3.0
"""For requests that are cut off to be told so, and for vLLM's processes to end."""
ENDS: Mapping[str | None, Reason] = {
    "stop": "stop", "length": "length", "abort": "cancelled"
}  # fmt: skip
"""vLLM's reasons, and ours; all others are errors."""


class VllmEngine:
    """An `Engine` on vLLM's processes, which hold the model's layers; `backbone` is loaded without them.

    `source` is where vLLM finds the same model: a folder or a hub id. `options` are vLLM's own engine arguments.
    """

    def __init__(
        self,
        backbone: Backbone,
        source: str,
        *,
        options: Mapping[str, Any] | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        _ = backbone.fingerprint  # which the first request would otherwise wait for
        self.backbone = backbone
        self._figures, self._prefixes = Figures(), Prefixes()
        try:
            self._llm = launch(backbone, source, self._prefixes.folder, options or {}, self._figures)
        except BaseException:
            self._prefixes.close()
            raise
        config = self._llm.vllm_config
        self.context = min(backbone.context, config.model_config.max_model_len)
        self._waiting = QueueLimit(max_waiting, config.scheduler_config.max_num_seqs)
        L, H, size = backbone.cache_shape
        tokens = (config.cache_config.num_gpu_blocks or 0) * config.cache_config.block_size
        self._kv_bytes = 2 * L * H * size * tokens * backbone.dtype.itemsize
        self._preparer = Preparer(backbone, self.context, LARGEST)
        self._grammars = Grammars(backbone.tokenizer, end_tokens(backbone), backbone.name)
        self._ends = tuple(end_tokens(backbone))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="foreword-prepare")
        self._priorities = FairPriority()
        self._names: dict[str, None] = {}
        """Of vLLM's requests that are under way."""
        self._number = self._entering_now = 0
        self._pace = Pace()
        self._closed = False
        self._read = self._wrote = self._hits = self._misses = self._errors = 0

    def check(self, prompt: Prompt) -> None:
        """As `Engine` has it."""
        check_prompt(self.backbone, prompt, LARGEST)

    async def generate(self, request: Request) -> AsyncIterator[Token | Finished]:
        """As `Engine` has it."""
        with self._entering(request.key):
            constraint = None
            prepared = await self._prepare(lambda: self._preparer.generation(request))
            if (schema := request.schema) is not None:
                if request.logprobs:
                    raise UsageError("vLLM tells no log-probabilities of an answer by a schema; ask for none")
                try:
                    constraint = await self._prepare(lambda: self._grammars.constraint(schema, 1))
                except ForewordError as error:
                    raise SchemaError(str(error)) from error
        return self._write(prepared, constraint)

    async def classify(self, request: Request) -> Answer:
        """As `Engine` has it. What choices begin with alike is asked once; the prompt's own blocks are shared."""
        with self._entering(request.key):
            prepared, answers = await self._prepare(lambda: self._preparer.choices(request))
            queries, priority = token_queries(answers), self._priorities.next(request.key)
            try:
                values = await asyncio.gather(*(self._log_probability(prepared, priority, query) for query in queries))
            except TimeoutError:
                raise DeadlineError("the deadline has passed before the choices were scored") from None
            except (EngineDeadError, EngineGenerateError) as problem:
                self._errors += 1
                raise ModelError(f"vLLM: {problem!s:.200}") from problem
            except ModelError:
                self._errors += 1
                raise
            finally:
                self._priorities.finished(request.key, priority)
        if not all(map(math.isfinite, values)):
            self._errors += 1
            raise ModelError(f"prompt {request.key!r}: the model gives non-finite logits")
        return choose_answer(prepared, answers, log_likelihoods(answers, dict(zip(queries, values, strict=True))))

    def stats(self) -> Stats:
        """As `Engine` has it; vLLM tells neither prefix caches nor their bytes."""
        figures = self._figures
        waiting = min(figures.waiting, len(self._names))
        return Stats(
            running=len(self._names) - waiting,
            waiting=waiting + self._entering_now,
            kv_used=int(figures.usage * self._kv_bytes) if self._names else 0,
            kv_total=self._kv_bytes,
            prefix_caches=0,
            prefix_cache_bytes=0,
            prefix_cache_total=0,
            prefix_cache_hits=self._hits,
            prefix_cache_misses=self._misses,
            steps=figures.steps,
            step_rows=figures.step_rows,
            last_rows=figures.last_rows,
            prompt_tokens=self._read,
            completion_tokens=self._wrote,
            errors=self._errors,
            broken=self._broken,
        )

    async def close(self, grace: float) -> None:
        """As `Engine` has it."""
        self._closed, until = True, time.monotonic() + grace
        await self._idle(until)
        if self._names and not self._broken:
            await self._llm.abort(list(self._names))
        await self._idle(time.monotonic() + SECONDS_TO_CANCEL)
        llm, self._llm = self._llm, None  # it would end itself once more when it is thrown away
        await asyncio.to_thread(llm.shutdown, SECONDS_TO_END)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._prefixes.close()

    @property
    def _broken(self) -> bool:
        """Whether vLLM's processes are gone."""
        return self._llm is not None and bool(self._llm.errored)

    async def _idle(self, until: float) -> None:
        while (self._names or self._entering_now) and time.monotonic() < until:
            await asyncio.sleep(0.01)

    async def _write(self, prepared: Prepared, constraint: Constraint | None) -> AsyncIterator[Token | Finished]:
        request, tokenizer = prepared.request, self.backbone.tokenizer
        limit = request.sampling.limit(request.prompt)
        writer = AnswerText(tokenizer, request.sampling.stop if constraint is None else ())
        ends = self._ends if constraint is None else constraint.ends
        self._waiting.take(request.key)
        written = cached = 0
        reason: Reason | None = None
        error = None
        priority = self._priorities.next(request.key)
        outputs = self._outputs(prepared, sampling_params(request, limit, ends), priority)
        try:
            async for output in outputs:
                cached = max(cached, output.num_cached_tokens or 0)
                part = output.outputs[0]
                for i, token in enumerate(part.token_ids):
                    done = constraint is not None and constraint.accept([token])[0]
                    if token in self._ends and (constraint is None or done):
                        reason = "stop"
                        break
                    written += 1
                    logprobs = part.logprobs[i] if part.logprobs else None
                    logprob, top = token_logprobs(logprobs, token, request.logprobs, tokenizer)
                    yield Token(writer.push(token), (token,), logprob, top)
                    if writer.stopped or done or written == limit:
                        reason = "stop" if writer.stopped or done else "length"
                        break
                if output.finished and reason is None:
                    reason = ENDS.get(part.finish_reason, "error")
                if reason is not None:
                    break
        except TimeoutError:
            reason = "deadline"
        except (EngineDeadError, EngineGenerateError) as problem:
            reason, error = "error", f"vLLM: {problem!s:.200}"
        finally:
            self._priorities.finished(request.key, priority)
            self._counted(prepared, written, cached, failed=reason == "error")
            await outputs.aclose()
        if rest := writer.end():
            yield Token(rest, (), None, ())
        if reason in (None, "error"):
            reason, error = "error", error or f"prompt {request.key!r}: vLLM gave the request up"
            failure("model", ModelError(), problem=error, id=request.id, prompt=request.key)
        yield Finished(reason, len(prepared.ids), cached, written, error)

    async def _log_probability(self, prepared: Prepared, priority: int, query: TokenQuery) -> float:
        """Nats of one token behind the row and some of an answer."""
        before, token = query
        outputs = self._outputs(prepared, scoring_params(token), priority, before)
        try:
            async for output in outputs:
                part = output.outputs[0]
                if part.logprobs:
                    return float(part.logprobs[0][token].logprob)
                if output.finished and part.finish_reason != "abort":
                    raise ModelError(f"prompt {prepared.request.key!r}: vLLM gave the request up")
        finally:
            await outputs.aclose()
        raise ClosedError()

    async def _outputs(
        self, prepared: Prepared, params: Any, priority: int, after: tuple[int, ...] = ()
    ) -> AsyncGenerator[Any, None]:
        """vLLM's outputs to one request, which is aborted where nobody waits for its end. Raises TimeoutError."""
        request, lent = prepared.request, None
        self._number += 1
        name = f"{request.id}-{self._number}"
        self._names[name] = None
        try:
            if prepared.vectors.prefix:
                lent = await self._prepare(lambda: self._lend(request.prompt))
                params.extra_args = {"kv_transfer_params": dict(lent)}
            row = await self._prepare(lambda: row_input(self.backbone, prepared, after))
            if self._llm is None:
                raise ClosedError()
            stream = self._llm.generate(row, params, name, priority=priority)
            try:
                while True:
                    async with asyncio.timeout_at(request.loop_deadline):
                        output = await anext(stream, None)
                    if output is None:
                        return
                    self._priorities.begun(priority)
                    yield output
            finally:
                await stream.aclose()
        except VLLMValidationError as problem:
            raise UsageError(f"vLLM refuses the request: {problem!s:.300}") from problem
        finally:
            del self._names[name]
            if lent is not None:
                self._prefixes.give_back(lent)

    def _lend(self, prompt: Prompt) -> Mapping[str, object]:
        try:
            return self._prefixes.lend(prompt)
        except ForewordError as error:  # a full disk is not the request's fault
            raise ModelError(str(error)) from error

    def _counted(self, prepared: Prepared, written: int, cached: int, *, failed: bool) -> None:
        self._waiting.give_back(prepared.request.key)
        self._pace.ended()
        self._read += len(prepared.ids) - cached
        self._wrote += written
        self._hits += cached > 0
        self._misses += cached == 0
        self._errors += failed

    async def _prepare(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @contextlib.contextmanager
    def _entering(self, key: str) -> Iterator[None]:
        if self._closed or self._broken:
            raise ClosedError()
        self._waiting.check(key, self._pace.seconds())
        self._waiting.take(key)
        self._entering_now += 1
        try:
            yield
        finally:
            self._entering_now -= 1
            self._waiting.give_back(key)
