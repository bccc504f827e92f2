"""What `VllmEngine` promises, against the local engine and transformers. `test_vllm.py` runs it where vLLM is."""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openai
import pytest
from vllm.engine.arg_utils import AsyncEngineArgs

from foreword.backbone import Backbone
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Output, Prompt
from foreword.prompts.schema import checked
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.queueing import QueueLimit
from foreword.serve.engines.registry import make_engine
from foreword.serve.engines.seam import ClosedError, Finished, ModelError, QueueFullError
from foreword.serve.engines.vllm.launch import OTHERWISE, launch
from foreword.serve.engines.vllm.vllm_engine import VllmEngine
from foreword.table import PromptTable
from serve.engines import mixed

T = TypeVar("T")
NAME = "smollm2-135m"
OPTIONS = {"kv_cache_memory_bytes": 512 * 1024**2, "max_num_seqs": 16, "max_model_len": 512}
TEXTS = ("a quiet , generous film", "simplistic , silly and tedious from its first minute to its very last one , alas")
SCHEMA = checked({
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer", "minimum": 1, "maximum": 5},
                   "why": {"type": "string", "maxLength": 20}},
    "required": ["mood", "stars", "why"],
})  # fmt: skip


class Both:
    """One event loop in a thread, with both engines on one model."""

    def __init__(self) -> None:
        self.full = Backbone.load(NAME, "float32")
        self.local = LocalEngine(self.full)
        self.part, engine = make_engine("vllm", NAME, "float32", OPTIONS)
        assert isinstance(engine, VllmEngine)
        self.vllm = engine
        self.prompts = mixed.prompts(self.full)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(300)

    def ask(self, engine: Any, *requests: mixed.Request) -> list[tuple[list[mixed.Token], Finished]]:
        """All at once."""

        async def all_of_them() -> Any:
            return await asyncio.gather(*(mixed.answer(engine, request) for request in requests))

        return self.run(all_of_them())

    def close(self) -> None:
        self.run(self.local.close(5))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    both = Both()
    yield both
    both.close()


def spoken(answers: list[tuple[list[mixed.Token], Finished]]) -> list[tuple[str, str, int, int]]:
    return [
        ("".join(token.text for token in tokens), end.reason, end.prompt_tokens, end.completion_tokens)
        for tokens, end in answers
    ]


def test_this_process_has_no_layers_and_tells_the_same_backbone(both: Both) -> None:
    assert both.part.fingerprint == both.full.fingerprint
    assert sum(p.numel() for p in both.part.model.parameters()) < 0.25 * sum(
        p.numel() for p in both.full.model.parameters()
    )
    assert (both.part.cache_shape, both.part.context) == (both.full.cache_shape, both.full.context)
    assert both.vllm.context == 512


def test_tokens_are_those_of_transformers_in_any_company_cold_and_warm(both: Both) -> None:
    requests = [mixed.request(prompt, text, max_tokens=12) for prompt in both.prompts for text in TEXTS]
    expected = [mixed.alone(both.full, request) for request in requests]
    assert len({tuple(ids) for ids in expected}) > 20, "rows that answer alike would show nothing"
    for warm in (False, True):
        found = both.ask(both.vllm, *requests)
        assert [end.error for _, end in found] == [None] * len(found)
        for request, (tokens, end), ids in zip(requests, found, expected, strict=True):
            assert (request.prompt.name, mixed.ids(tokens)) == (request.prompt.name, ids)
            assert end.completion_tokens == len(ids)
            assert not warm or end.prompt_tokens <= 32 or end.cached_tokens >= 32
    stats = both.vllm.stats()
    assert (stats.running, stats.waiting, stats.kv_used, stats.errors) == (0, 0, 0, 0)
    assert stats.step_rows / stats.steps > 4
    assert stats.kv_total > 400 * 1024**2


def test_texts_ends_and_log_probabilities_are_those_of_the_local_engine(both: Both) -> None:
    free = [mixed.request(prompt, max_tokens=16) for prompt in both.prompts]
    texts = ["".join(token.text for token in tokens) for tokens, _ in both.ask(both.local, *free)]
    stopped = [
        mixed.request(prompt, max_tokens=16, stop=(text[len(text) // 2 :][:3] or "x", "never to be seen"), logprobs=3)
        for prompt, text in zip(both.prompts, texts, strict=True)
    ]
    theirs, ours = both.ask(both.local, *stopped), both.ask(both.vllm, *stopped)
    assert spoken(ours) == spoken(theirs)
    assert {end.reason for _, end in ours} >= {"stop"}
    for (mine, _), (other, _) in zip(ours, theirs, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert a.logprob == (None if b.logprob is None else pytest.approx(b.logprob, abs=2e-3))
            assert [value for _, value in a.top] == pytest.approx([value for _, value in b.top], abs=2e-3)
            assert (a.text, a.ids, [text for text, _ in a.top][:1]) == (b.text, b.ids, [t for t, _ in b.top][:1])


def test_choices_are_scored_as_the_backbone_scores_them(both: Both) -> None:
    output = Output(choices=("very good", "bad", "rather bad", "very strange indeed"))
    requests = [mixed.request(prompt.replace(output=output)) for prompt in both.prompts]

    async def score() -> Any:
        writing = mixed.answer(both.vllm, mixed.request(both.prompts[5], max_tokens=9, logprobs=2))
        return await asyncio.gather(*map(both.vllm.classify, requests), writing)

    *found, (tokens, _) = both.run(score())
    assert all(len(token.top) == 2 for token in tokens), "scoring beside it must not take them away"
    for request, answer in zip(requests, found, strict=True):
        plain = both.full.answer(request.prompt, [request.inputs])[0]
        assert (answer.value, answer.prompt_tokens) == (plain.value, plain.prompt_tokens)
        assert answer.log_likelihoods == pytest.approx(plain.log_likelihoods, abs=1e-3)
        assert answer.probabilities == pytest.approx(plain.probabilities, abs=1e-3)


def test_json_is_held_to_its_schema_and_is_the_local_engines(both: Both) -> None:
    requests = [mixed.request(prompt, schema=SCHEMA, max_tokens=80) for prompt in both.prompts]
    warm = mixed.request(both.prompts[8], schema=SCHEMA, max_tokens=80, temperature=1.0, seed=3)
    theirs, (*ours, drawn) = both.ask(both.local, *requests), both.ask(both.vllm, *requests, warm)
    assert spoken(ours) == spoken(theirs)
    for text, reason, *_ in spoken([*ours, drawn]):
        assert reason == "stop"
        assert json.loads(text)["mood"] in ("good", "bad")
    with pytest.raises(ForewordError, match="cannot constrain"):
        both.ask(both.vllm, mixed.request(both.prompts[0], schema={"type": "string", "pattern": "("}))
    with pytest.raises(UsageError, match="log-probabilities"):
        both.ask(both.vllm, mixed.request(both.prompts[0], schema=SCHEMA, logprobs=1))


def test_a_seed_gives_the_same_words_again(both: Both) -> None:
    drawn = [mixed.request(both.prompts[9], max_tokens=12, temperature=1.0, seed=seed) for seed in (7, 7, 8)]
    one, same, other = (mixed.ids(tokens) for tokens, _ in both.ask(both.vllm, *drawn))
    assert one == same != other


def test_vectors_that_could_spoil_the_server_never_reach_it(both: Both) -> None:
    D, (L, H, size) = both.full.dimension, both.full.cache_shape
    healthy = mixed.request(both.prompts[8], max_tokens=6)
    expected = mixed.alone(both.full, healthy)

    def made(**tensors: np.ndarray) -> Prompt:
        vectors = mixed.soft(both.full, {name: np.ones_like(array) for name, array in tensors.items()})
        for name, array in tensors.items():  # what no file may hold is put there behind the file's back
            vectors.tensors[name][:] = array  # type: ignore[index]
        return Prompt("bad", "{{ virtual(2) }}Review: {{ text }}", soft=vectors)

    bad = [
        made(embeddings=np.full((2, D), np.nan, np.float32)),
        made(embeddings=np.full((2, D), 1e30, np.float32)),
        made(embeddings=np.ones((2, D // 2), np.float32)),
        made(keys=np.full((L, H, 2, size), np.inf, np.float32), values=np.ones((L, H, 2, size), np.float32)),
        made(keys=np.ones((L, H + 1, 2, size), np.float32), values=np.ones((L, H + 1, 2, size), np.float32)),
        made(embeddings=np.ones((2, D), np.float32), offsets=np.full((4, D), np.nan, np.float32)),
        Prompt("bad", "{{ virtual(2) }}Review: {{ text }}"),
    ]
    for prompt in bad:
        with pytest.raises(ForewordError, match="'bad'"):
            both.ask(both.vllm, mixed.request(prompt))
        with pytest.raises(ForewordError, match="'bad'"):
            both.vllm.check(prompt)
        assert mixed.ids(both.ask(both.vllm, healthy)[0][0]) == expected


def test_a_prefix_that_is_lost_fails_its_own_request_and_no_other(both: Both) -> None:
    prompt = both.prompts[14]
    assert prompt.soft is not None
    fresh = prompt.replace(soft=mixed.soft(both.full, {k: v * 0.5 for k, v in prompt.soft.tensors.items()}))
    lent = both.vllm._prefixes.lend(fresh)
    file = both.vllm._prefixes.folder / f"{lent['prefix']}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    healthy = [mixed.request(prompt, max_tokens=6), mixed.request(both.prompts[4], max_tokens=6)]
    lost, *found = both.ask(both.vllm, mixed.request(fresh, max_tokens=6), *healthy)
    assert (lost[1].reason, lost[0]) == ("error", [])
    with pytest.raises(ModelError, match="gave the request up"):
        both.run(both.vllm.classify(mixed.request(fresh.replace(output=Output(choices=("good", "bad"))))))
    assert [mixed.ids(tokens) for tokens, _ in found] == [mixed.alone(both.full, request) for request in healthy]
    file.unlink()  # and is written again
    again = mixed.request(fresh, max_tokens=6)
    assert mixed.ids(both.ask(both.vllm, again)[0][0]) == mixed.alone(both.full, again)
    both.vllm._prefixes.give_back(lent)


def test_what_is_thrown_out_of_the_cache_half_done_goes_on_as_if_it_had_not_been(both: Both) -> None:
    requests = [mixed.request(prompt, max_tokens=20) for prompt in both.prompts]
    expected = [(mixed.ids(tokens), end.reason) for tokens, end in both.ask(both.local, *requests)]
    resets = []

    async def throw_out() -> None:
        for steps in (4, 12):
            until = both.vllm.stats().steps + steps
            await mixed.until(lambda until=until: both.vllm.stats().steps >= until)  # type: ignore[misc]
            resets.append(both.vllm.stats().running)
            assert await both.vllm._llm.reset_prefix_cache(reset_running_requests=True)

    async def main() -> Any:
        return await asyncio.gather(*(mixed.answer(both.vllm, request) for request in requests), throw_out())

    *found, _ = both.run(main())
    assert min(resets) > 8, "hardly any was under way"
    for request, (tokens, end), theirs in zip(requests, found, expected, strict=True):
        assert (request.prompt.name, mixed.ids(tokens), end.reason) == (request.prompt.name, *theirs)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("kv_offloading_size", 1, "prefixes do not reach"),
        ("speculative_config", {"method": "ngram", "num_speculative_tokens": 2}, "prefixes do not reach"),
        ("revision", "main", "another model"),
        ("tokenizer", "elsewhere", "another tokenizer"),
        ("logprobs_mode", "processed_logprobs", "set by Foreword"),
        ("no_such", None, "none of vLLM's"),
    ],
)
def test_options_that_would_make_answers_wrong_are_refused(both: Both, name: str, value: Any, why: str) -> None:
    assert set().union(*OTHERWISE.values()) <= {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    with pytest.raises(UsageError, match=f"'{name}' .*{why}"):
        launch(both.part, "nowhere", Path("nowhere"), {name: value}, None)


def test_who_leaves_or_is_late_frees_the_place(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    long = mixed.request(both.prompts[8], max_tokens=400)
    late = mixed.request(both.prompts[8], max_tokens=400, deadline=time.monotonic() + 1.0)

    async def main() -> None:
        async with aclosing(await both.vllm.generate(long)) as stream:  # type: ignore[type-var]
            async for _ in stream:
                break
        assert both.vllm.stats().running == 0
        tokens, end = await mixed.answer(both.vllm, late)
        assert end.reason == "deadline"
        assert end.completion_tokens == len(mixed.ids(tokens)) < 400
        asking = asyncio.create_task(both.vllm.classify(mixed.request(both.prompts[4].replace(output=Output(
            choices=("good", "bad"))))))  # fmt: skip
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await mixed.until(lambda: not both.vllm.stats().running)
        assert await both.vllm._llm.is_tracing_enabled() is False  # vLLM itself still answers
        assert not both.vllm._llm.output_processor.has_unfinished_requests()
        monkeypatch.setattr(both.vllm, "_waiting", QueueLimit(1))
        async with aclosing(await both.vllm.generate(long)) as stream:  # type: ignore[type-var]
            await anext(stream)
            with pytest.raises(QueueFullError) as full:
                await both.vllm.generate(long)
            assert full.value.retry_after >= 1

    both.run(main())
    with pytest.raises(UsageError, match="512"):
        both.ask(both.vllm, mixed.request(both.prompts[0], max_tokens=600))


def test_prompts_take_turns(both: Both) -> None:
    ended: list[str] = []

    async def ask(prompt: Prompt) -> None:
        await mixed.answer(both.vllm, mixed.request(prompt, max_tokens=6))
        ended.append(prompt.name)

    async def main() -> None:
        many = [asyncio.create_task(ask(both.prompts[4])) for _ in range(64)]
        await mixed.until(lambda: both.vllm.stats().waiting > 40)
        await asyncio.gather(*many, ask(both.prompts[5]))

    both.run(main())
    assert ended.index("hard-1") < 48


def test_what_is_cut_off_at_the_end_is_told_so(both: Both) -> None:
    """The last test of this engine: it closes it."""

    async def main() -> None:
        cut = asyncio.create_task(mixed.answer(both.vllm, mixed.request(both.prompts[8], max_tokens=450)))
        await mixed.until(lambda: both.vllm.stats().running)
        await both.vllm.close(0.5)
        tokens, end = await cut
        assert (end.reason, len(tokens) > 0) == ("cancelled", True)
        with pytest.raises(ClosedError):
            await both.vllm.generate(mixed.request(both.prompts[0]))

    both.run(main())
    assert not both.vllm._prefixes.folder.exists()


def test_the_command_serves_it_to_openais_client(tmp_path: Path) -> None:
    full = Backbone.load(NAME, "float32", layers=False)
    soft, prefix = (mixed.prompts(full)[i] for i in (8, 13))
    table = PromptTable.open(tmp_path / "prompts.db")
    table.put(soft, alias="prod")
    mood = Prompt("mood", "Review: {{ text }}\nSentiment:", output=Output(choices=("negative", "positive")))
    table.put(mood)
    code = "from foreword.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--engine", "vllm", "--table", str(tmp_path / "prompts.db")]
    command += ["--dtype", "float32", "--port", "0", "--grace", "20"]
    for name, value in OPTIONS.items():
        command += ["--engine-option", f"{name}={value}"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ, start_new_session=True)
    try:
        url = _address(process, log)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        ask: Any = client.chat.completions.create
        text = [{"role": "user", "content": "a quiet film"}]
        whole = ask(model="middle-0@prod", messages=text, max_tokens=8)
        chunks = list(ask(model="middle-0", messages=text, max_tokens=8, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert whole.system_fingerprint == "middle-0:1"
        assert ask(model=NAME, messages=text, max_tokens=4).usage.completion_tokens <= 4
        scored = json.loads(_post(f"{url}/v1/classify", {"model": "mood", "input": "a quiet , generous film"}))
        assert sum(choice["probability"] for choice in scored["choices"]) == pytest.approx(1)
        table.put(prefix)  # while it runs
        assert ask(model="prefix-1", messages=text, max_tokens=4).choices[0].message.content
        assert {"middle-0@prod", "mood", "prefix-1:1", NAME} <= {model.id for model in client.models.list()}
        with pytest.raises(openai.BadRequestError):
            ask(model="middle-0", messages=text, extra_body={"prompt_embeds": "AAAA"})
        with urllib.request.urlopen(f"{url}/metrics") as page:
            assert b'foreword:generation_tokens_total{prompt="prefix-1:1"} ' in page.read()
        stream = ask(model=NAME, messages=text, max_tokens=100, stream=True)
        next(stream)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        reasons = [chunk.choices[0].finish_reason for chunk in stream]
        assert reasons[-1] in ("stop", "length"), "what was accepted is finished"
        client.close()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
    end = time.monotonic() + 20
    while subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True).stdout:
        assert time.monotonic() < end, "processes are left behind"
        time.sleep(0.2)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-4000:]
        for line in log.read_text().splitlines():
            if line.startswith("{") and json.loads(line).get("event") == "ready":
                return str(json.loads(line)["address"][0])
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-4000:])


def _post(url: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())
