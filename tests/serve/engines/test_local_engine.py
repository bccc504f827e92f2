"""The engine's manners: queues, deadlines, people who leave, numbers that are none, its end."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Output, Prompt
from foreword.serve.engines.local.batched import BatchedRunner
from foreword.serve.engines.local.sampler import TokenMask
from foreword.serve.engines.seam import ClosedError, Finished, QueueFullError, Token
from serve.engines import mixed

LONG = Prompt("long", "Review: {{ text }} Sentiment:")


@pytest.fixture
def backbone() -> mixed.Backbone:
    return tiny.backbone("llama")


def slowly(engine: mixed.LocalEngine) -> threading.Semaphore:
    """The model waits for a leave before every step from now on."""
    leave, plain = threading.Semaphore(0), engine._runner._forward

    def forward(*args: object) -> Tensor:
        leave.acquire()
        return plain(*args)

    engine._runner._forward = forward
    return leave


def without_end(backbone: mixed.Backbone) -> Prompt:
    """A prompt whose answer goes on as long as it may."""
    for prompt in mixed.prompts(backbone):
        if len(mixed.alone(backbone, mixed.request(prompt, max_tokens=100))) == 100:
            return prompt
    raise AssertionError


def test_a_full_queue_says_when_to_come_again_and_one_prompt_cannot_fill_it(backbone: mixed.Backbone) -> None:
    async def main() -> None:
        async with mixed.running(backbone, max_rows=1, max_waiting=4) as engine:
            leave = slowly(engine)
            first = await engine.generate(mixed.request(LONG, max_tokens=150))
            await mixed.until(lambda: engine.stats().running == 1)
            others = [await engine.generate(mixed.request(LONG, max_tokens=2, key="hot:1")) for _ in range(2)]
            with pytest.raises(QueueFullError, match="2 requests for 'hot:1' are waiting"):
                await engine.generate(mixed.request(LONG, key="hot:1"))
            others += [await engine.generate(mixed.request(LONG, max_tokens=2, key=key)) for key in ("b:1", "c:1")]
            with pytest.raises(QueueFullError, match="4 requests are waiting") as full:
                await engine.generate(mixed.request(LONG))
            assert 1 <= full.value.retry_after <= 60
            await first.aclose()
            leave.release(1_000)
            assert [item async for item in others[1]][-1].reason == "length"
            await mixed.answer(engine, mixed.request(LONG, max_tokens=1, key="hot:1"))

    asyncio.run(main())


def test_prompts_take_turns(backbone: mixed.Backbone) -> None:
    """Ten requests of a busy prompt do not keep one of another waiting for more than its turn."""

    async def main() -> None:
        async with mixed.running(backbone, max_rows=1) as engine:
            leave, ends = slowly(engine), list[str]()

            async def ask(key: str) -> None:
                await mixed.answer(engine, mixed.request(LONG, max_tokens=3, key=key))
                ends.append(key)

            asked = asyncio.gather(*(ask("busy:1") for _ in range(10)), ask("calm:1"))
            await mixed.until(lambda: engine.stats().waiting == 10 and not engine._entering_now)
            leave.release(1_000)
            await asked
            assert ends.index("calm:1") <= 2

    asyncio.run(main())


def test_rows_that_nobody_reads_are_freed(backbone: mixed.Backbone) -> None:
    prompt = without_end(backbone)

    async def main() -> None:
        async with mixed.running(backbone) as engine:
            closed = await engine.generate(mixed.request(prompt, max_tokens=200))
            await anext(closed)
            await closed.aclose()
            assert [item async for item in closed] == []
            reader = asyncio.create_task(mixed.answer(engine, mixed.request(prompt, max_tokens=200)))
            await mixed.until(lambda: engine.stats().running)
            reader.cancel()
            forgotten = await engine.generate(mixed.request(prompt, max_tokens=200))
            del forgotten
            await mixed.until(lambda: not engine.stats().running and not engine.stats().waiting)
            assert engine.stats().completion_tokens < 300
            assert engine.stats().kv_used == 0

    asyncio.run(main())


def test_deadlines_end_rows_that_wait_and_rows_that_write(backbone: mixed.Backbone) -> None:
    async def main() -> None:
        async with mixed.running(backbone, max_rows=1) as engine:
            leave = slowly(engine)
            soon = time.monotonic() + 0.3
            asked = [mixed.request(LONG, max_tokens=100, deadline=soon) for _ in range(2)]
            answers = [asyncio.create_task(mixed.answer(engine, request)) for request in asked]
            leave.release(3)
            await asyncio.sleep(0.4)
            leave.release(10)
            found = [finished for _, finished in await asyncio.gather(*answers)]
            assert [finished.reason for finished in found] == ["deadline", "deadline"]
            assert sorted(finished.completion_tokens > 0 for finished in found) == [False, True]
            choice = LONG.replace(output=Output(choices=("good", "bad")))
            with pytest.raises(ForewordError, match="deadline"):
                await engine.classify(mixed.request(choice, deadline=time.monotonic() - 1))

    asyncio.run(main())


def test_a_prompt_that_gives_no_numbers_harms_no_other(
    backbone: mixed.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared prefix that overflows, and rows that turn to NaN behind one; among them rows of a healthy prompt."""
    huge = Prompt("huge", "{{ virtual(2) }}Review: {{ text }}", soft=mixed.soft(
        backbone, {k: np.full((3, 2, 2, 8), 3e38, np.float32) for k in ("keys", "values")}
    ))  # fmt: skip
    late = Prompt("late", "Review: {{ text }}{{ virtual(1) }}", soft=mixed.soft(
        backbone, {"embeddings": np.ones((1, 32), np.float32)}
    ))  # fmt: skip
    embed = backbone.embedder.embed_row
    monkeypatch.setattr(
        backbone.embedder,
        "embed_row",
        lambda ids, v, *rest: embed(ids, v, *rest) * (np.nan if v.count == 1 and rest else 1),
    )
    healthy = mixed.request(LONG, max_tokens=12)
    expected = mixed.alone(backbone, healthy)

    async def main() -> None:
        async with mixed.running(backbone, max_rows=3, kv_bytes=400_000) as engine:
            for _ in range(3):
                # Long enough to leave NaN where the healthy rows, which get its slot next, do not write themselves.
                spoiling = mixed.request(huge, "a quiet film " * 4, max_tokens=2)
                asked = [spoiling, healthy, mixed.request(late), healthy, mixed.request(late)]
                found = await asyncio.gather(*(mixed.answer(engine, request) for request in asked))
                assert [finished.reason for _, finished in found] == ["error", "length", "error", "length", "error"]
                assert "huge" in (found[0][1].error or "")
                assert mixed.ids(found[1][0]) == mixed.ids(found[3][0]) == expected
            assert engine.stats().errors == 9

    asyncio.run(main())


def test_a_shared_prefix_and_the_row_behind_it_are_read_in_one_step(
    backbone: mixed.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, lengths = BatchedRunner._forward, list[int]()

    def forward(self: BatchedRunner, embedded: Tensor, *rest: object) -> Tensor:
        lengths.append(len(embedded))
        return plain(self, embedded, *rest)

    async def main() -> None:
        async with mixed.running(backbone) as engine:
            monkeypatch.setattr(BatchedRunner, "_forward", forward)
            for prompt in mixed.prompts(backbone):
                lengths.clear()
                _, finished = await mixed.answer(engine, mixed.request(prompt, max_tokens=1))
                assert lengths == [finished.prompt_tokens - backbone.vectors(prompt).prefix]

    asyncio.run(main())


def test_short_prompts_pass_a_long_one_that_is_read_and_do_not_stop_it(backbone: mixed.Backbone) -> None:
    ends: list[str] = []

    async def ask(engine: mixed.LocalEngine, key: str, text: str) -> None:
        await mixed.answer(engine, mixed.request(LONG, text, max_tokens=1, key=key))
        ends.append(key)

    async def main() -> None:
        async with mixed.running(backbone, chunk=8) as engine:
            leave = slowly(engine)
            long = asyncio.create_task(ask(engine, "long:1", "film " * 200))
            await mixed.until(lambda: engine.stats().running == 1)

            async def hurried() -> None:
                for _ in range(30):
                    await ask(engine, "short:1", "a quiet film")

            shorts = [asyncio.create_task(hurried()) for _ in range(4)]
            await mixed.until(lambda: engine.stats().waiting == 4 and not engine._entering_now)
            leave.release(10_000)
            await asyncio.gather(long, *shorts)
            assert 4 <= ends.index("long:1") <= 60

    asyncio.run(main())


def test_many_choices_of_a_long_text_do_not_hold_up_rows_that_write(
    backbone: mixed.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run of the model is longer than a chunk; a smaller job passes, and one that nobody waits for ends early."""
    choices = Output(choices=tuple(f"{'very ' * (i % 3)}good {'film ' * i}." for i in range(12)))
    large = mixed.request(LONG.replace(output=choices), "film " * 60, key="large:1")
    small = mixed.request(LONG.replace(output=Output(choices=("good", "bad"))))
    expected = backbone.score(large.prompt, [large.inputs]).log_likelihoods[0]
    embed, lengths, ends = backbone.embedder.embed, list[int](), list[str]()

    def counted(ids: Tensor, *rest: Any) -> Tensor:
        lengths.append(len(ids))
        return embed(ids, *rest)

    async def ask(engine: mixed.LocalEngine, request: mixed.Request) -> Any:
        answer = await engine.classify(request)
        ends.append(request.key)
        return answer

    async def main() -> None:
        async with mixed.running(backbone, chunk=16) as engine:
            monkeypatch.setattr(backbone.embedder, "embed", counted)
            found = asyncio.create_task(ask(engine, large))
            await mixed.until(lambda: not engine._scheduler._choice_scorer.idle)
            await ask(engine, small)
            assert (await found).log_likelihoods == pytest.approx(expected, abs=2e-4)
            assert max(lengths) <= 16
            assert ends == ["long:1", "large:1"]
            left = asyncio.create_task(engine.classify(large))
            await mixed.until(lambda: not engine._scheduler._choice_scorer.idle)
            left.cancel()
            await mixed.until(lambda: engine._scheduler._choice_scorer.idle and not engine.stats().waiting)

    asyncio.run(main())


def test_what_cannot_be_run_is_refused_before_it_reaches_the_model(backbone: mixed.Backbone) -> None:
    half = tiny.backbone("llama", torch.float16)
    big = Prompt("big", "{{ virtual(1) }}Review: {{ text }}", soft=mixed.soft(
        half, {"embeddings": np.full((1, 32), 1e6, np.float32)}
    ))  # fmt: skip
    strange = big.replace(
        soft=mixed.soft(tiny.backbone("llama", seed=5), {"embeddings": np.zeros((1, 32), np.float32)})
    )

    async def main() -> None:
        async with mixed.running(half) as engine:
            with pytest.raises(ForewordError, match=r"'big'.*not finite in float16"):
                await engine.generate(mixed.request(big))
        async with mixed.running(backbone, kv_bytes=60_000) as engine:
            with pytest.raises(ForewordError, match="tuned on"):
                await engine.generate(mixed.request(strange))
            with pytest.raises(ForewordError, match="needs the input 'text'"):
                await engine.generate(mixed.Request("id", LONG, "k", {}, mixed.Sampling()))
            with pytest.raises(UsageError, match="256"):
                await engine.generate(mixed.request(LONG, max_tokens=300))
            with pytest.raises(UsageError, match="more memory"):
                await engine.generate(mixed.request(LONG, max_tokens=200))
            with pytest.raises(UsageError, match="no choices"):
                await engine.classify(mixed.request(LONG))
            assert (engine.stats().waiting, engine.stats().running) == (0, 0)

    asyncio.run(main())


def test_little_memory_makes_rows_wait_and_loses_none(backbone: mixed.Backbone) -> None:
    requests = [mixed.request(p, max_tokens=n) for p in mixed.prompts(backbone) for n in (3, 30)]
    expected = [mixed.alone(backbone, request) for request in requests]
    token = 2 * 4 * int(np.prod(backbone.cache_shape))

    async def main() -> None:
        async with mixed.running(backbone, kv_bytes=200 * token) as engine:
            found = await asyncio.gather(*(mixed.answer(engine, request) for request in requests))
            assert [mixed.ids(tokens) for tokens, _ in found] == expected
            memory = engine._runner._memory
            assert sum(arena.nbytes for arena in memory._arenas.values()) <= 200 * token

    asyncio.run(main())


def test_closing_finishes_what_was_accepted_and_then_cancels(backbone: mixed.Backbone) -> None:
    prompt = without_end(backbone)

    async def main() -> None:
        engine = mixed.LocalEngine(backbone, max_rows=2)
        asked = [asyncio.create_task(mixed.answer(engine, mixed.request(prompt, max_tokens=9))) for _ in range(5)]
        await mixed.until(lambda: engine.stats().running)
        await engine.close(20)
        assert [(await task)[1].reason for task in asked] == ["length"] * 5
        with pytest.raises(ClosedError):
            await engine.generate(mixed.request(prompt))
        hasty = mixed.LocalEngine(backbone)
        stream = await hasty.generate(mixed.request(prompt, max_tokens=200))
        await anext(stream)
        await hasty.close(0)
        assert [item async for item in stream][-1].reason == "cancelled"

    asyncio.run(main())


def test_log_probabilities_are_the_models_own(backbone: mixed.Backbone) -> None:
    wanted = mixed.request(LONG, max_tokens=5, logprobs=3, temperature=1.0, seed=4)

    async def main() -> None:
        async with mixed.running(backbone) as engine:
            tokens, _ = await mixed.answer(engine, wanted)
            prompt = backbone.encode(LONG, wanted.inputs).ids.tolist()
            written = mixed.ids(tokens)
            logits = backbone.model(input_ids=torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
            expected = torch.log_softmax(logits, -1)
            for token, row in zip(tokens, expected, strict=False):
                if not token.ids:
                    continue
                assert token.logprob == pytest.approx(row[token.ids[0]].item(), abs=1e-3)
                assert [value for _, value in token.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
                assert len(token.top) == 3

    asyncio.run(main())


class Only:
    """A mask that lets three words through, in order."""

    def __init__(self, ids: list[int], vocabulary: int) -> None:
        self.ids, self.vocabulary, self.taken = ids, vocabulary, list[int]()

    @property
    def done(self) -> bool:
        return len(self.taken) == len(self.ids)

    def allowed(self) -> Tensor:
        allowed = torch.zeros(self.vocabulary, dtype=torch.bool)
        allowed[self.ids[len(self.taken)]] = True
        return allowed

    def accept(self, token_id: int) -> None:
        self.taken.append(token_id)


def test_a_mask_holds_its_own_row_and_no_other(backbone: mixed.Backbone) -> None:
    words = backbone.tokenizer.encode(" positive and tedious")
    free = mixed.request(LONG, max_tokens=10)

    async def main() -> None:
        made: list[TokenMask] = []
        async with mixed.running(backbone, masks=lambda schema: made[schema["use"]]) as engine:

            def held_to(mask: TokenMask, **options: Any) -> mixed.Request:
                made.append(mask)
                return mixed.request(LONG, schema={"use": len(made) - 1}, **options)

            asked = [held_to(Only(words, backbone.vocabulary), max_tokens=50), free]
            asked.append(held_to(Only(words, backbone.vocabulary), max_tokens=50, temperature=2.0))
            held, alone, warm = await asyncio.gather(*(mixed.answer(engine, request) for request in asked))
            assert mixed.ids(held[0]) == mixed.ids(warm[0]) == words
            assert held[1].reason == "stop"
            assert mixed.ids(alone[0]) == mixed.alone(backbone, free)

            end = backbone.tokenizer.eos_token_id
            ended = Only([words[0], end], backbone.vocabulary)
            tokens, finished = await mixed.answer(engine, held_to(ended, stop=("p",)))
            assert (mixed.ids(tokens), ended.taken, finished.reason) == (words[:1], [words[0], end], "stop")

            class Broken(Only):
                def allowed(self) -> Tensor:
                    raise ValueError("the grammar is lost")

            tokens, finished = await mixed.answer(engine, held_to(Broken(words, 5)))
            assert (tokens, finished.reason, finished.error) == ([], "error", "the grammar is lost")

    asyncio.run(main())


def test_a_step_that_fails_ends_its_rows_and_the_engine_goes_on(
    backbone: mixed.Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with mixed.running(backbone) as engine:
            with monkeypatch.context() as broken:
                broken.setattr(BatchedRunner, "_forward", lambda *_: 1 / 0)
                _, finished = await mixed.answer(engine, mixed.request(LONG))
                assert (finished.reason, finished.error) == ("error", "division by zero")
            tokens, _ = await mixed.answer(engine, mixed.request(LONG, max_tokens=8))
            assert mixed.ids(tokens) == mixed.alone(backbone, mixed.request(LONG, max_tokens=8))
            assert engine.stats().kv_used > 0 or not engine.stats().running

    asyncio.run(main())


def test_items_are_tokens_and_one_end(backbone: mixed.Backbone) -> None:
    async def main() -> None:
        async with mixed.running(backbone) as engine:
            cold = [item async for item in await engine.generate(mixed.request(LONG, max_tokens=4))]
            warm = [item async for item in await engine.generate(mixed.request(LONG, max_tokens=4))]
            assert all(isinstance(item, Token) for item in cold[:-1])
            assert isinstance(cold[-1], Finished)
            assert (cold[-1].cached_tokens, warm[-1].cached_tokens > 0) == (0, True)
            assert cold[:-1] == warm[:-1]
            stats = engine.stats()
            assert (stats.prefix_cache_hits, stats.prefix_cache_misses, stats.prefix_caches) == (1, 1, 1)
            assert stats.prompt_tokens == 2 * warm[-1].prompt_tokens - warm[-1].cached_tokens

    asyncio.run(main())
