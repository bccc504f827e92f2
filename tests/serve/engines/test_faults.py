"""What goes wrong inside the engine stays with the request that it belongs to, and is called by its name."""

import asyncio
import functools
import gc
import logging
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from foreword.prompts import Output, Prompt
from foreword.serve.engines.local.choice_scoring import ChoiceScorer
from foreword.serve.engines.seam import ClosedError, DeadlineError, ModelError
from foreword.serve.engines.text import Detokenizer
from foreword.serve.log import NAME
from serve.engines import mixed

CHOICES = Output(choices=("very good", "bad"))
SHORT = Prompt("short", "Review: {{ text }} Sentiment:")
LONG = Prompt("long", "What is the sentiment of this review? Answer very good or rather bad. {{ text }} Sentiment:")


def test_a_shared_prefix_that_choices_were_scored_behind_is_no_poison() -> None:
    """Its slot is taken next by a shorter prefix, beside a longer one: what is masked there must be numbers too."""
    backbone = tiny.backbone()
    huge = Prompt("huge", "{{ virtual(20) }}Review: {{ text }}", output=CHOICES, soft=mixed.soft(
        backbone, {k: np.full((3, 2, 20, 8), 3e38, np.float32) for k in ("keys", "values")}
    ))  # fmt: skip
    healthy = [mixed.request(prompt, max_tokens=30) for prompt in (SHORT, LONG)]
    expected = [mixed.alone(backbone, request) for request in healthy]
    scored = mixed.request(SHORT.replace(output=CHOICES))

    async def main() -> None:
        async with mixed.running(backbone, max_rows=4) as engine:
            asked = [engine.classify(mixed.request(huge)), engine.classify(scored), mixed.answer(engine, healthy[0])]
            found: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(found[0], ModelError)
            assert "'huge'" in str(found[0])
            assert found[1].log_likelihoods == pytest.approx(
                backbone.score(scored.prompt, [scored.inputs]).log_likelihoods[0], abs=1e-4
            )
            assert (await mixed.answer(engine, mixed.request(huge)))[1].reason == "error"
            written = await asyncio.gather(*(mixed.answer(engine, request) for request in healthy))
            assert [mixed.ids(tokens) for tokens, _ in written] == expected

    asyncio.run(main())


def test_an_error_that_is_kept_keeps_nothing_of_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is full would never be emptied: its want of memory sets off no collection."""
    backbone = tiny.backbone()
    held: list[weakref.ref[Any]] = []

    def full(*_: object, **__: object) -> None:
        hidden = torch.zeros(1000)
        held.append(weakref.ref(hidden))
        raise torch.OutOfMemoryError("CUDA out of memory")

    async def main() -> None:
        async with mixed.running(backbone) as engine:
            with monkeypatch.context() as broken:
                broken.setattr(backbone.model, "forward", full)
                _, finished = await asyncio.wait_for(mixed.answer(engine, mixed.request(SHORT, max_tokens=8)), 5)
                with pytest.raises(torch.OutOfMemoryError):
                    await engine.classify(mixed.request(SHORT.replace(output=Output(choices=("good", "bad")))))
            assert finished.reason == "error"

    gc.disable()
    try:
        asyncio.run(main())
        assert len(held) > 1
        assert not any(ref() is not None for ref in held)
    finally:
        gc.enable()


def test_a_tokenizer_that_fails_costs_one_row(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = tiny.backbone()
    request = mixed.request(SHORT, max_tokens=8)
    expected = mixed.alone(backbone, request)
    logging.getLogger(NAME).propagate = True

    async def main() -> None:
        async with mixed.running(backbone) as engine:
            with monkeypatch.context() as broken:
                broken.setattr(Detokenizer, "_decode", lambda *_: {}["no such token, said the secret text"])
                _, finished = await asyncio.wait_for(mixed.answer(engine, request), 5)
            assert finished.reason == "error"
            tokens, _ = await asyncio.wait_for(mixed.answer(engine, request), 5)
            assert mixed.ids(tokens) == expected

    asyncio.run(main())
    told = [vars(record)["fields"] for record in caplog.records if record.message == "model"]
    assert [(line["error"], line["prompt"]) for line in told] == [("KeyError", "short:1")]
    assert "secret" not in str(told)


def test_choices_that_are_not_scored_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone()
    request = mixed.request(SHORT.replace(output=CHOICES))

    async def main() -> None:
        engine = mixed.LocalEngine(backbone)
        with pytest.raises(DeadlineError):
            await engine.classify(mixed.request(request.prompt, deadline=time.monotonic() - 1))
        with monkeypatch.context() as broken:
            broken.setattr(type(backbone), "log_probs_mixed", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):  # no fault of the request: it is not a ForewordError
                await engine.classify(request)
        await engine.classify(request)
        with monkeypatch.context() as busy:
            busy.setattr(ChoiceScorer, "run", lambda *_: time.sleep(0.01))
            late = asyncio.create_task(engine.classify(request))
            await mixed.until(lambda: engine.stats().waiting)
            await engine.close(0)
            with pytest.raises(ClosedError):
                await late

    asyncio.run(main())


def test_a_row_that_cannot_be_admitted_gives_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone()
    soft = next(prompt for prompt in mixed.prompts(backbone) if prompt.name == "middle-0")
    embed = backbone.embedder.embed_row

    def fails(behind: bool, ids: Any, vectors: Any, *rest: Any) -> Any:
        if vectors.count and behind == bool(rest):
            raise MemoryError
        return embed(ids, vectors, *rest)

    async def main() -> None:
        async with mixed.running(backbone) as engine:
            for behind in (False, True):  # the shared prefix, or what stands behind it
                monkeypatch.setattr(backbone.embedder, "embed_row", functools.partial(fails, behind))
                found = await asyncio.gather(
                    mixed.answer(engine, mixed.request(soft)), mixed.answer(engine, mixed.request(SHORT, max_tokens=4))
                )
                assert [finished.reason for _, finished in found] == ["error", "length"]
                await mixed.until(lambda: not engine.stats().running)
                assert engine.stats().kv_used == 0
                assert not engine._runner._prefixes

    asyncio.run(main())


def test_a_pause_does_not_make_the_queue_look_slow() -> None:
    async def main() -> None:
        async with mixed.running(tiny.backbone()) as engine:
            for _ in range(2):
                await mixed.answer(engine, mixed.request(SHORT, max_tokens=2))
                await asyncio.sleep(1.5)
            await asyncio.gather(*(mixed.answer(engine, mixed.request(SHORT, max_tokens=20 + i)) for i in range(4)))
            assert engine._scheduler.pace.seconds() < 0.5

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_has_died_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        engine = mixed.LocalEngine(tiny.backbone())
        monkeypatch.setattr(engine._scheduler, "_take", lambda *_: 1 / 0)
        _, finished = await asyncio.wait_for(mixed.answer(engine, mixed.request(SHORT)), 5)
        assert finished.reason == "cancelled"
        engine._thread.join(5)
        with pytest.raises(ClosedError):
            await engine.generate(mixed.request(SHORT))

    asyncio.run(main())
