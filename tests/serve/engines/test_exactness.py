"""A row's tokens are the same in any company, and those of transformers' generate."""

import asyncio
import random
from contextlib import aclosing

import numpy as np
import pytest
import torch

import tiny
from foreword.backbone import Backbone
from foreword.serve.engines.local.batched import BatchedRunner
from foreword.serve.engines.local.sequential import SequentialRunner
from foreword.serve.engines.seam import Finished
from serve.engines import mixed

WORDS = ("a", "quiet", "generous", "film", "simplistic", "silly", "and", "tedious", "What", "is", "the", "sentiment")


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "t5", "bart"])
def test_rows_of_sixteen_prompts_come_and_go_and_none_notices(family: str) -> None:
    backbone = tiny.backbone(family)
    prompts = mixed.prompts(backbone)
    dice = random.Random(1)
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(1, 14))) for _ in range(48)]
    requests = [
        mixed.request(prompt, text, max_tokens=dice.randint(1, 20))
        for prompt, text in zip(prompts * 3, texts, strict=True)
    ]
    dice.shuffle(requests)
    expected = [mixed.alone(backbone, request) for request in requests]
    assert len({tuple(ids) for ids in expected}) > 15, "rows that answer alike would show nothing"

    async def ask(i: int, engine: mixed.LocalEngine) -> list[int] | None:
        await asyncio.sleep(dice.random() * 0.3)
        if dice.random() < 0.3:  # someone else comes, and goes before the end
            async with aclosing(await engine.generate(mixed.request(dice.choice(prompts), max_tokens=30))) as stream:
                async for _ in stream:
                    if dice.random() < 0.3:
                        break
        tokens, finished = await mixed.answer(engine, requests[i])
        assert finished.error is None
        assert finished.completion_tokens == len(mixed.ids(tokens))
        return mixed.ids(tokens)

    room = 60 * 2 * 4 * int(np.prod(backbone.cache_shape))  # for sixty tokens of prefix caches

    async def main() -> None:
        # Little room and small pieces: rows wait, shared prefixes are prefilled in chunks, thrown away and read again.
        async with mixed.running(backbone, max_rows=7, chunk=9, prefix_cache_bytes=room) as engine:
            assert isinstance(engine._runner, BatchedRunner if family in tiny.FAMILIES[:-1] else SequentialRunner)
            found = await asyncio.gather(*(ask(i, engine) for i in range(len(requests))))
            assert found == expected
            await mixed.until(lambda: not engine.stats().running)
            stats = engine.stats()
            assert (stats.kv_used, stats.waiting, stats.errors) == (0, 0, 0)
            assert stats.prefix_cache_bytes <= room
            if isinstance(engine._runner, BatchedRunner):
                assert stats.step_rows / stats.steps > 2
                assert stats.prefix_cache_misses > 16, "no prefix cache was ever thrown away"

    asyncio.run(main())


def test_answers_are_those_of_the_backbone_stop_strings_and_all() -> None:
    backbone = tiny.backbone("llama", seed=3)
    prompts = mixed.prompts(backbone)

    async def main() -> None:
        async with mixed.running(backbone) as engine:
            for prompt in prompts:
                free = mixed.request(prompt, max_tokens=24)
                text = backbone.answer(prompt, [free.inputs], free.sampling)[0].text
                stop = (text[len(text) // 2 :][:3] or "x", "never to be seen")
                stopped = mixed.request(prompt, max_tokens=24, stop=stop)
                for request in (free, stopped):
                    plain = backbone.answer(prompt, [request.inputs], request.sampling)[0]
                    tokens, finished = await mixed.answer(engine, request)
                    assert "".join(token.text for token in tokens).strip() == plain.text
                    assert finished.prompt_tokens == plain.prompt_tokens
                    # transformers looks for stop strings in tokens' names, where half a character is none.
                    assert finished.completion_tokens == plain.answer_tokens or "\ufffd" in stop[0]

    asyncio.run(main())


@pytest.mark.parametrize("chunk", [64, 4])
def test_choices_are_scored_as_the_backbone_scores_them(chunk: int) -> None:
    """All of a job in one step, and a few tokens and choices of it in each."""
    for family in ("llama", "gemma", "bloom", "t5"):
        backbone = tiny.backbone(family)
        choices = {"choices": ["very good", "bad", "rather bad"]}
        made = [mixed.Prompt.replace(p, output=type(p.output)(**choices)) for p in mixed.prompts(backbone)]
        requests = [mixed.request(prompt) for prompt in made]

        async def main(backbone: Backbone = backbone, requests: list[mixed.Request] = requests) -> None:
            async with mixed.running(backbone, chunk=chunk) as engine:
                writing = mixed.answer(engine, mixed.request(mixed.prompts(backbone)[5], max_tokens=9))
                found = await asyncio.gather(*map(engine.classify, requests), writing)
                for request, answer in zip(requests, found[:-1], strict=True):
                    plain = backbone.answer(request.prompt, [request.inputs])[0]
                    assert (answer.value, answer.prompt_tokens) == (plain.value, plain.prompt_tokens)
                    assert answer.log_likelihoods == pytest.approx(plain.log_likelihoods, abs=2e-4)
                assert isinstance(found[-1][1], Finished)

        asyncio.run(main())


def test_sampled_rows_depend_on_their_seed_and_on_no_other_row() -> None:
    backbone = tiny.backbone("llama")
    prompts = mixed.prompts(backbone)

    async def main() -> None:
        async with mixed.running(backbone) as engine:

            async def draw(seed: int, **options: float) -> list[int]:
                wanted = mixed.request(prompts[8], max_tokens=20, temperature=1.0, seed=seed, **options)
                return mixed.ids((await mixed.answer(engine, wanted))[0])

            alone = await draw(7)
            others = [mixed.answer(engine, mixed.request(p, max_tokens=25, temperature=1.0)) for p in prompts]
            crowded, *_ = await asyncio.gather(draw(7), *others)
            assert alone == crowded
            assert alone != await draw(8)
            assert await draw(7, top_p=1e-9) == mixed.alone(backbone, mixed.request(prompts[8], max_tokens=20))

    asyncio.run(main())


@pytest.mark.slow
def test_the_real_backbone_writes_the_same_in_company() -> None:
    backbone = Backbone.load("smollm2-135m", "float32")
    prompts = mixed.prompts(backbone)
    requests = [
        mixed.request(prompt, text, max_tokens=12) for prompt, text in zip(prompts, [*WORDS, *WORDS], strict=False)
    ]
    expected = [mixed.alone(backbone, request) for request in requests]

    async def main() -> None:
        async with mixed.running(backbone, chunk=32) as engine:
            found = await asyncio.gather(*(mixed.answer(engine, request) for request in requests))
            assert [mixed.ids(tokens) for tokens, _ in found] == expected

    torch.manual_seed(0)
    asyncio.run(main())
