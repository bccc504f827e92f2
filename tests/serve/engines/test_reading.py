"""How likely a text is, token by token, against transformers' own forward pass."""

import asyncio

import openai
import pytest
import torch

from foreword.backbone.answer import Sampling
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import Finished, Request
from foreword.serve.http.calls import TEXT
from serving import BACKBONE, House, refused
from tiny import FAMILIES, backbone

TEXTS = ["What is the sentiment of this review?", "a quiet , generous film . ¿Sí? 🙂 very good", "a"]


def request(text: str, number: int = 0, top: int = 2) -> Request:
    return Request(str(number), TEXT, "tiny:text", {"prompt": text}, Sampling(max_tokens=1), None, top)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_as_likely_as_in_one_pass_beside_rows_that_write(family: str) -> None:
    model = backbone(family)
    words = Request("w", Prompt("p", "Review: {{ text }}"), "p:1", {"text": "silly"}, Sampling(max_tokens=24))

    async def written(engine: LocalEngine) -> list[int]:
        return [i async for item in await engine.generate(words) if not isinstance(item, Finished) for i in item.ids]

    async def main() -> None:
        engine = LocalEngine(model, chunk=5)
        try:
            alone = await written(engine)
            found = await asyncio.gather(
                *(engine.score_text(request(text, i)) for i, text in enumerate(TEXTS)), written(engine)
            )
            assert found[-1] == alone
            for text, tokens in zip(TEXTS, found, strict=False):
                ids = torch.tensor([model.tokenizer.encode(text)])
                with torch.no_grad():
                    expected = torch.log_softmax(model.model(input_ids=ids).logits[0], -1)
                assert [token.ids[0] for token in tokens[:-1]] == ids[0].tolist()
                assert "".join(token.text for token in tokens[:-1]) == text
                assert tokens[0].logprob is None
                following = [*ids[0, 1:].tolist(), int(expected[-1].argmax())]
                assert tokens[-1].ids == (following[-1],)
                for token, row, target in zip(tokens[1:], expected, following, strict=True):
                    assert token.logprob == pytest.approx(row[target].item(), abs=1e-3)
                    assert [value for _, value in token.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)
        finally:
            await engine.close(5)

    asyncio.run(main())


def test_what_cannot_be_read_is_refused_and_nothing_is_left_waiting() -> None:
    async def main() -> None:
        engine = LocalEngine(backbone("t5"))
        with pytest.raises(UsageError, match="encoder"):
            await engine.score_text(request("a"))
        await engine.close(1)
        engine = LocalEngine(backbone(), chunk=1)
        gone = asyncio.create_task(engine.score_text(request("good " * 60)))
        await asyncio.sleep(0.05)
        gone.cancel()
        late = request("good " * 60)
        with pytest.raises(ForewordError, match="deadline"):
            await engine.score_text(Request(**{**vars(late), "deadline": 0.0}))
        assert len(await engine.score_text(request("good"))) > 1
        assert engine.stats().waiting == 0
        await engine.close(1)
        with pytest.raises(ForewordError, match="shutting down"):
            await engine.score_text(request("a"))

    asyncio.run(main())


def test_an_echo_is_of_the_bare_backbone_and_writes_nothing(house: House) -> None:
    create = house.client().completions.create
    with refused(openai.BadRequestError, param="echo"):
        create(model="echo", prompt="a", echo=True, max_tokens=1)
    for options in ({"max_tokens": 5}, {"temperature": 1, "max_tokens": 1}, {"stop": "x", "max_tokens": 0}, {}):
        with refused(openai.BadRequestError, param="echo"):
            create(model=BACKBONE, prompt="a", echo=True, **options)  # type: ignore[call-overload]
    with refused(openai.BadRequestError, param="echo") as caught:
        create(model=BACKBONE, prompt="a", echo=True, max_tokens=1)
    assert "engine" in str(caught.value)  # this one cannot
    with refused(openai.BadRequestError):
        create(model=BACKBONE, prompt="a", max_tokens=0)
