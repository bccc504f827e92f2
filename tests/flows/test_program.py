"""Prompts as functions: near and far, hard and soft, one row, many, and awaited, all the same call."""

import asyncio
import dataclasses
import enum
import json
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

import foreword as fw
import tiny
from foreword.backbone import Answer, Backbone, RemoteBackbone, Sampling
from foreword.errors import ForewordError, ForewordWarning, UsageError
from foreword.flows import Program, Result, Usage, trace
from foreword.prompts import Input, Output, Prompt, SoftTokens
from foreword.tasks import Row

backbone = cache(tiny.backbone)
TEAM = Prompt("team", "Ticket: {{ text }}\nTeam:", output=Output(choices=("billing", "technical")))
FREE = Prompt("free", "Ticket: {{ text }}\nAnswer:")
ROWS = [{"text": f"a {word} film", "label": "unused"} for word in ("quiet", "silly", "tedious", "generous")]


class Team(enum.Enum):
    BILLING = "billing"
    TECHNICAL = "technical"


class Ticket(BaseModel):
    """What a ticket asks for."""

    team: Team
    urgent: bool = False
    tags: list[str] = Field(default_factory=list, max_length=2)


@dataclasses.dataclass
class Amount:
    euros: int
    note: str | None = None


def soft(model: Backbone) -> Prompt:
    vectors = np.random.default_rng(0).normal(size=(3, model.dimension)).astype("float32")
    tokens = SoftTokens({"embeddings": vectors}, model.name, model.fingerprint, "test", "", 3)
    return TEAM.replace(name="soft-team", body="{{ virtual(3) }}" + TEAM.body, soft=tokens)


@pytest.mark.parametrize("make", [lambda _: TEAM, soft, lambda _: TEAM.replace(output=Output())])
def test_a_call_gives_what_the_backbone_answers_with_its_cost(make: Any) -> None:
    model = backbone("llama")
    prompt = make(model)
    team = fw.Program(prompt, model, sampling=Sampling(5))
    one, many = team(text=ROWS[0]["text"]), team.batch(ROWS)
    expected = model.answer(prompt, [{"text": row["text"]} for row in ROWS], Sampling(5))
    assert [result.value for result in many] == [answer.value for answer in expected]
    assert (one.value, one.text) == (many[0].value, many[0].text)
    assert [result.usage for result in many] == [
        Usage(a.prompt_tokens, a.answer_tokens, a.cached_tokens, a.scored_tokens, calls=1) for a in expected
    ]
    assert 0 < one.seconds < 60
    if prompt.output.choices is None:
        assert one.probabilities is None
        assert one.usage.completion_tokens > 0
    else:
        assert one.probabilities is not None
        assert list(one.probabilities) == ["billing", "technical"]
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert max(one.probabilities, key=lambda choice: one.probabilities[choice]) == one.value  # type: ignore[index]


def test_probabilities_are_the_softmax_of_what_was_compared() -> None:
    model = backbone("llama")
    leaning = TEAM.replace(output=Output(choices=("yes", "no"), log_prior=(-3.0, 0.5)))
    found = Program(leaning, model)(text="film").probabilities
    scores = model.score(leaning, [{"text": "film"}])
    per_token = scores.log_likelihoods[0] / (scores.tokens[0] if len(set(scores.tokens[0])) > 1 else 1)
    fair = np.exp(per_token - [-3.0, 0.5])
    assert found == pytest.approx(dict(zip(("yes", "no"), fair / fair.sum(), strict=True)))


def test_types_say_what_is_asked_for_and_what_comes_back() -> None:
    model, short = backbone("llama"), Sampling(150, temperature=1.0)
    names = Literal["billing", "technical"]
    chosen: Program[Literal["billing", "technical"]] = Program(FREE, model, returns=names)
    assert chosen.prompt == FREE.replace(output=TEAM.output)
    assert chosen(text="film").value in ("billing", "technical")
    assert isinstance(Program(TEAM, model, returns=Team)(text="film").value, Team)
    ticket = Program(FREE, model, returns=Ticket, sampling=short)(text="film")
    assert isinstance(ticket.value, Ticket)
    assert isinstance(ticket.value.team, Team)
    amount = Program(FREE, model, returns=Amount, sampling=short)(text="film").value
    assert isinstance(amount, Amount)
    assert isinstance(amount.euros, int)
    assert isinstance(Program(FREE, model, returns=int, sampling=short)(text="film").value, int)
    assert Program(FREE, model, returns=str).prompt == FREE
    own = FREE.replace(output=Output(schema={"type": "object", "properties": {"euros": {"enum": [5]}}}))
    assert Program(own, model, returns=Amount).prompt == own  # a prompt's own output stays


class Node(BaseModel):
    below: "list[Node]" = []


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        (TEAM, Literal["billing", "sales"], "'team' answers one of"),
        (TEAM, Ticket, "'team' answers one of"),
        (FREE, Node, "holds itself"),
        (FREE, dict[str, int], "an object needs 'properties'"),
        (FREE, Any, "needs a 'type'"),
        (FREE, threading.Lock, "no answer can be read as"),
    ],
)
def test_a_type_that_does_not_fit_is_refused_before_anything_runs(prompt: Prompt, kind: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Program(prompt, backbone("llama"), returns=kind)


def test_a_call_takes_its_inputs_and_nothing_else_and_a_row_may_hold_more() -> None:
    team = Program(TEAM, backbone("llama"))
    with pytest.raises(UsageError, match="has no input 'txet'; did you mean 'text'"):
        team(txet="film")
    with pytest.raises(UsageError, match="needs the input 'text'"):
        team()
    with pytest.raises(UsageError, match=r"row 1: .*needs the input 'text'"):
        team.batch([ROWS[0], {"label": "x"}])
    with pytest.raises(UsageError, match="of type integer"):
        Program(FREE.replace(inputs={"text": Input(type="integer")}), backbone("llama"))(text="film")
    assert team.batch([]) == []


def test_a_prompt_that_the_model_cannot_run_is_told_when_it_is_bound() -> None:
    with pytest.raises(ForewordError, match="tune it first"):
        Program(FREE.replace(body="{{ virtual(2) }}{{ text }}"), backbone("llama"))


def test_what_is_not_what_was_asked_for_raises_where_it_is_used_and_spares_the_batch() -> None:
    long = FREE.replace(output=Output(schema={"type": "string", "minLength": 40}))
    result = Program(long, backbone("llama"), sampling=Sampling(5))(text="film")
    assert (result.parsed, result.usage.completion_tokens) == (None, 5)
    with pytest.raises(ForewordError, match=r"prompt 'free': the JSON is not finished after 5 tokens.*max_tokens"):
        _ = result.value

    class Even(BaseModel):
        n: Literal[2, 4]

    own = FREE.replace(
        output=Output(schema={"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]})
    )
    results = Program(own, backbone("llama"), returns=Even, sampling=Sampling(40, 2.0)).batch(ROWS * 3)
    assert {result.problem is None for result in results} == {True, False}
    assert all("'n': must be 2 or 4" in (result.problem or "'n': must be 2 or 4") for result in results)


class Slow:
    """A model that notes how many calls it answers at once."""

    name = "slow"

    def __init__(self, parallel: int) -> None:
        self.parallel, self.now, self.most, self.lock = parallel, 0, 0, threading.Lock()

    def check(self, prompt: Prompt) -> None:
        pass

    def answer(self, _: Prompt, rows: Sequence[Any], *__: Any) -> list[Answer]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        return [Answer(row["text"], row["text"], None, 1, 1) for row in rows]


@pytest.mark.parametrize("parallel", [1, 3])
def test_awaited_calls_run_side_by_side_within_the_models_bound(parallel: int) -> None:
    model = Slow(parallel)
    echo = Program(FREE, model)  # type: ignore[arg-type]

    async def main() -> tuple[list[Result[Any]], list[Result[Any]]]:
        with trace() as found:
            alone = await asyncio.gather(*(echo.acall(text=str(i)) for i in range(9)))
            together = await echo.abatch([{"text": "a"}, {"text": "b"}])
        assert len(found.calls) == 11
        assert found.usage == Usage(11, 11, calls=11)
        return alone, together

    alone, together = asyncio.run(main())
    assert [result.value for result in alone] == [str(i) for i in range(9)]
    assert [result.value for result in together] == ["a", "b"]
    assert model.most == parallel


def test_a_local_model_answers_the_same_awaited_and_sampled_by_many_threads() -> None:
    program = Program(FREE, backbone("llama"), sampling=Sampling(8, temperature=1.0, seed=3))
    expected = program(text="film").text

    async def main() -> list[Any]:
        threads = [asyncio.to_thread(program, text="film") for _ in range(4)]  # past the bound, and still by the seed
        return await asyncio.gather(program.acall(text="film"), *threads)

    assert {result.text for result in asyncio.run(main())} == {expected}


def test_a_function_that_calls_prompts_is_traced_with_all_it_cost() -> None:
    model = backbone("llama")
    shorten, team = Program(FREE.replace(name="shorten"), model, sampling=Sampling(4)), Program(TEAM, model)

    def triage(text: str) -> str:
        return team(text=shorten(text=text).value).value

    with trace() as whole, trace() as inner:
        value = triage("a silly film")
    assert [call.prompt for call in whole.calls] == ["shorten", "team"]
    assert whole.calls[1].inputs == {"text": whole.calls[0].result.value}
    assert whole.calls[1].result.value == value
    assert whole.usage == whole.calls[0].result.usage + whole.calls[1].result.usage
    assert whole.seconds == pytest.approx(sum(call.result.seconds for call in whole.calls))
    assert inner.calls == whole.calls
    triage("after the trace")
    assert len(whole.calls) == 2


# A remote model, driven by the real client against a server on this machine

SAID: list[dict[str, Any]] = []


class _Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        SAID.append(body)
        said = body["messages"][-1]["content"].rpartition("say: ")[2]
        reason = "length" if said.endswith("…") else "stop"
        reply = {
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": said}}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }  # fmt: skip
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def remote() -> Iterator[RemoteBackbone]:
    SAID.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        model = RemoteBackbone.parse(f"openai:http://127.0.0.1:{server.server_port}/v1#big")
        yield model
        model.close()
        server.shutdown()


SAY = Prompt("p.v1", "say: {{ text }}")


def test_the_same_calls_far_away(remote: RemoteBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)  # not needed there
    ticket = Program(SAY, remote, returns=Ticket)
    good = '{"team": "billing", "urgent": true, "tags": ["a"]}'
    results = ticket.batch([{"text": text} for text in (good, '{"team": "sales"}', '{"team": "bil…', "no JSON")])
    assert results[0].value == Ticket(team=Team.BILLING, urgent=True, tags=["a"])
    assert results[0].usage == Usage(11, 3, calls=1)
    sent = SAID[0]["response_format"]["json_schema"]
    assert (SAID[0]["response_format"]["type"], sent["name"], sent["strict"]) == ("json_schema", "p_v1", False)
    assert sent["schema"]["additionalProperties"] is False
    assert SAID[0]["max_tokens"] == 512
    for result, message in zip(
        results[1:], ["does not fit the schema: \\$\\.team", "raise max_tokens", "is no JSON"], strict=True
    ):
        with pytest.raises(ForewordError, match=message):
            _ = result.value

    team = Program(SAY.replace(output=TEAM.output), remote)
    assert asyncio.run(team.acall(text="Billing, surely")).value == "billing"
    assert "response_format" not in SAID[-1]
    unsure = team(text="hm")
    assert (unsure.parsed, unsure.probabilities) == (None, None)
    with pytest.raises(ForewordError, match=r"the answer 'hm' is none of \['billing', 'technical'\]"):
        _ = unsure.value
    with pytest.raises(ForewordError, match="hard prompts only"):
        Program(soft(backbone("llama")), remote)


def test_strict_is_asked_for_where_every_key_is_required(remote: RemoteBackbone) -> None:
    inner = {"type": "object", "properties": {"b": {"type": "null"}}}
    for needed, strict in ((["b"], True), ([], False)):
        schema = {"type": "object", "properties": {"a": inner | {"required": needed}}, "required": ["a"]}
        Program(SAY.replace(output=Output(schema=schema)), remote)(text='{"a": {"b": null}}')
        assert SAID[-1]["response_format"]["json_schema"]["strict"] is strict


@pytest.mark.slow
def test_the_default_backbone_reads_tickets_into_objects() -> None:
    model = Backbone.load("smollm2-135m", "float32")

    class Read(BaseModel):
        team: Literal["billing", "technical"]
        summary: str = Field(max_length=60)
        euros: int = Field(ge=0, le=5_000)

    ask = "{{ user() }}Read the ticket and answer in JSON with team, summary and euros. Ticket: {{ text }}"
    texts = ["I was charged twice, please give 40 euros back!", "The app crashes when I open the settings."]
    with trace() as found:
        results = Program(Prompt("read", ask), model, returns=Read).batch([{"text": text} for text in texts])
    assert results[0].value.euros == 40
    assert all(len(result.value.summary) <= 60 for result in results)
    assert found.usage.completion_tokens < 160


def test_a_text_beyond_any_prompt_is_cut_to_its_budget_and_not_refused() -> None:
    prompt = fw.Prompt("p", "{{ text }}\nTeam:", {"text": Input(maxTokens=3, truncate="end")}, TEAM.output)
    with pytest.warns(ForewordWarning, match="longer than its 3 tokens"):
        result = fw.Program(prompt, backbone("llama"))(text="film " * 250_000)
    assert result.cuts[0].kept == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("route@prod", r"'route@prod' is no Prompt; give one: PromptTable\.open\(\)\.get\('route@prod'\)"),
        ("in/route.prompt", r"give one: Prompt\.load\('in/route\.prompt'\)"),
        (None, "give a Prompt, not None"),
    ],
)
def test_who_gives_a_reference_is_told_how_to_get_the_prompt(given: Any, said: str) -> None:
    model, task = (
        backbone("llama"),
        fw.Task("toy", ("text",), None, "f1", 0, *[(Row("1", {"text": "a"}, "b"),)] * 3, ()),
    )
    for call in (
        lambda: Program(given, model),
        lambda: fw.compare(model, task, [given]),
        lambda: fw.optimize(model, task, given),
        lambda: fw.few_shot(given, task, 1),
        lambda: fw.tune(model, task, given),
        lambda: fw.diff(FREE, given),
    ):
        with pytest.raises(UsageError, match=said):
            call()
