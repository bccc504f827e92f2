"""Ten minutes of twice what a server can take, over HTTP: is anything lost, mixed up, or let grow? Knows OpenAI's API.

Before the load, the engine answers every pair of a prompt and an input alone. Only those pairs are asked for whose
answer no other pair has, and in which no two tokens were nearly as likely as each other: whatever answer a request
gets, it tells which request it belongs to, and one token of another row in it is a difference. Requests come at
random times, whether or not others have been answered; half of them are streamed, and some of the clients go away.
"""

import argparse
import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import openai
from serve_parts import Row, ask, soft
from serve_process import Server

from foreword.backbone import Backbone
from foreword.backbone.answer import Sampling
from foreword.prompts import Prompt
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import Request

PROMPTS = 24
TEXTS = ("a quiet film", "lamps", "the long way home, and nothing on it", "Is it raining? Two umbrellas", "7 and 12")
LENGTHS = (6, 8, 10, 12)
CLEAR = 1e-3
"""Nats by which the likeliest token must be ahead of the next at every place: more than rounding can move."""
OVER = 2.0
"""Times its capacity that the server is offered."""
LEAST = 1.7
"""Times its capacity, or the run shows little: the client did not get enough of the machine."""
GONE = 0.05
"""Share of clients that go away."""
CLIENTS = 32
"""With which capacity is measured: twice the rows that the engine writes at once."""
PLACES = 256 + 16
"""Requests that the engine takes: waiting and running."""
PATIENCE = 150.0
"""Seconds after which a client takes an answer for lost; the server's own limit is 120."""
GROWTH = 0.05
"""By which memory may grow after the warm-up."""
SLACK = 2.0
"""Times the wait that a full queue means which the slowest accepted requests may take: prompts have turns, so that
one that was asked for more often just then is slower than the others."""


@dataclass(frozen=True)
class Known:
    """A request, and the answer that it must get."""

    model: str
    text: str
    tokens: int
    answer: str
    reason: str
    read: int
    """Prompt tokens."""
    version: str


@dataclass
class Tally:
    """What became of all requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Of accepted requests, to their last token."""
    firsts: list[float] = field(default_factory=list)
    """Of those that were streamed, to their first token."""
    problems: list[str] = field(default_factory=list)
    """The first few, in words."""

    def problem(self, outcome: str, said: str) -> None:
        self.outcomes[outcome] += 1
        if len(self.problems) < 10:
            self.problems.append(f"{outcome}: {said:.300}")


async def load(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """One row; its `failed` tells what should not have happened."""
    seconds = 60 * options.minutes
    prompts = _prompts(backbone)
    known = await _known(backbone, prompts)
    warm, load = Tally(), Tally()
    async with (
        Server(prompts, options.backbone, options.dtype) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client,
    ):
        capacity = await _capacity(client, known, min(30.0, seconds / 5), warm)
        began = time.monotonic()
        offered, rate = await _offer(client, known, OVER * capacity, seconds, load)
        spent = time.monotonic() - began
        crashed = not server.running
        left = {} if crashed else await _left(server)
        code = None if crashed else await server.stop()
        rss = [round(size / 1e6, 1) for size in server.rss]
    return [_row(capacity, offered, rate, seconds, spent, warm, load, rss, left, code)]


def _prompts(backbone: Backbone) -> list[Prompt]:
    """Half of them soft; of the others, some are chats where the model has a template."""
    made = [soft(backbone, i, 4 + i, "soft") for i in range(PROMPTS // 2)]
    for i in range(PROMPTS - len(made)):
        chat = "{{ user() }}" if backbone.tokenizer.chat_template and i % 3 == 0 else ""
        made.append(Prompt(f"hard-{i}", f"{chat}Note {i} of {PROMPTS}. Go on: {{{{ text }}}}"))
    return made


async def _known(backbone: Backbone, prompts: Sequence[Prompt]) -> list[Known]:
    """Every pair with a certain answer of its own, computed alone."""
    engine, found = LocalEngine(backbone), list[Known]()
    for i, (prompt, text) in enumerate(itertools.product(prompts, TEXTS)):
        tokens, version = LENGTHS[i % len(LENGTHS)], f"{prompt.name}:1"
        row = Request(str(i), prompt, version, {"text": text}, Sampling(max_tokens=tokens), logprobs=2)
        said = await ask(engine, row)
        if said.gap > CLEAR:
            model = prompt.name if i % 2 else f"{prompt.name}@prod"
            ended = said.finished
            found.append(Known(model, text, tokens, said.text.lstrip(), ended.reason, ended.prompt_tokens, version))
    await engine.close(5)
    times = Counter(one.answer for one in found)
    known = [one for one in found if times[one.answer] == 1]
    if len(known) < 4:
        raise SystemExit(f"only {len(known)} answers of this model can be told apart")
    return known


async def _capacity(client: openai.AsyncOpenAI, known: Sequence[Known], seconds: float, tally: Tally) -> float:
    """Requests a second that the server answers when it never runs out of them; every prompt is asked for first."""
    for i in range(0, len(known), CLIENTS):
        await asyncio.gather(*(_one(client, one, False, tally) for one in known[i : i + CLIENTS]))
    before, until, turns = sum(tally.outcomes.values()), time.monotonic() + seconds, itertools.cycle(known)

    async def keep_asking() -> None:
        while time.monotonic() < until:
            await _one(client, next(turns), True, tally)

    began = time.monotonic()
    await asyncio.gather(*(keep_asking() for _ in range(CLIENTS)))
    return (sum(tally.outcomes.values()) - before) / (time.monotonic() - began)


async def _offer(
    client: openai.AsyncOpenAI, known: Sequence[Known], rate: float, seconds: float, tally: Tally
) -> tuple[int, float]:
    """Requests at random times, `rate` a second, whatever becomes of the others.

    How many there were, and how many a second it really was: fewer where this process gets too little of the machine.
    """
    dice, tasks = np.random.default_rng(0), list[asyncio.Task[None]]()
    began = at = time.monotonic()
    while (at := at + dice.exponential(1 / rate)) < began + seconds:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        one, stream = known[dice.integers(len(known))], bool(dice.integers(2))
        stay = float(dice.exponential(5.0)) if dice.random() < GONE else None
        tasks.append(asyncio.create_task(_one(client, one, stream, tally, stay)))
    really = len(tasks) / max(seconds, time.monotonic() - began)
    await asyncio.gather(*tasks)
    return len(tasks), really


async def _one(client: openai.AsyncOpenAI, known: Known, stream: bool, tally: Tally, stay: float | None = None) -> None:
    """Ask, compare and count; the client goes away after `stay` seconds where it is not answered by then."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(stay):
            said, first = await (_streamed if stream else _whole)(client, known)
    except TimeoutError:
        tally.outcomes["went away"] += 1
    except openai.RateLimitError as error:
        wait = error.response.headers.get("retry-after", "")
        if wait.isdigit() and int(wait) > 0:
            tally.outcomes["429"] += 1
        else:
            tally.problem("429 without Retry-After", str(error))
    except openai.APIStatusError as error:
        tally.problem(str(error.status_code), str(error))
    except openai.APIError as error:  # the connection was cut, or the stream ended in an error
        tally.problem("lost", f"{type(error).__name__} {error}")
    else:
        tally.seconds.append(time.monotonic() - began)
        if stream and first is not None:
            tally.firsts.append(first - began)
        if said is None:
            tally.problem("lost", f"{known.model}: the stream has no end")
        elif said != known:
            tally.problem("mixed up", f"{said} is not {known}")
        else:
            tally.outcomes["200"] += 1


async def _whole(client: openai.AsyncOpenAI, known: Known) -> tuple[Known | None, float | None]:
    answer = await client.chat.completions.create(**_body(known))
    choice, read = answer.choices[0], answer.usage.prompt_tokens if answer.usage else 0
    said = replace(
        known, answer=choice.message.content or "", reason=choice.finish_reason, read=read,
        version=answer.system_fingerprint or "",
    )  # fmt: skip
    return said, None


async def _streamed(client: openai.AsyncOpenAI, known: Known) -> tuple[Known | None, float | None]:
    text, reason, read, version, first = "", None, 0, "", None
    options = {"include_usage": True}
    async with await client.chat.completions.create(**_body(known), stream=True, stream_options=options) as chunks:
        async for chunk in chunks:
            first = first or time.monotonic()
            version = chunk.system_fingerprint or version
            read = chunk.usage.prompt_tokens if chunk.usage else read
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
    return (replace(known, answer=text, reason=reason, read=read, version=version) if reason else None), first


def _body(known: Known) -> dict[str, Any]:
    message = {"role": "user", "content": known.text}
    return {"model": known.model, "messages": [message], "max_tokens": known.tokens, "temperature": 0}


async def _left(server: Server) -> dict[str, float]:
    """What the server still holds when all clients have gone; it has a moment to notice."""
    for _ in range(50):
        gauges = await server.gauges()
        held = {name: gauges[name] for name in ("num_requests_running", "num_requests_waiting", "kv_cache_bytes")}
        if not any(held.values()):
            break
        await asyncio.sleep(0.1)
    return held


def _row(
    capacity: float, offered: int, rate: float, seconds: float, spent: float, warm: Tally, load: Tally,
    rss: Sequence[float], left: dict[str, float], code: int | None,
) -> Row:  # fmt: skip
    outcomes, answered = load.outcomes, load.outcomes["200"]
    # Memory is compared from a quarter of the load on: until then the queue fills, and buffers grow to their sizes.
    steady = rss[len(rss) // 4 :]
    start = float(np.median(steady[: max(1, len(steady) // 10)]))
    growth = max(steady) / start - 1
    served = answered / spent
    bound = SLACK * PLACES / served if served else 0.0
    p50, p99 = np.quantile(load.seconds or [0.0], (0.5, 0.99)).tolist()
    good = {"200", "429", "went away"}
    failed = [f"{number} × {what}" for what, number in (warm.outcomes + outcomes).items() if what not in good]
    failed += ["the server has crashed"] if code is None and not left else []
    failed += [f"it ended with {code}" for code in [code] if left and code != 0]
    failed += [f"after the load it holds {left}"] if any(left.values()) else []
    failed += [f"memory grew by {growth:.1%}"] if growth > GROWTH else []
    failed += [f"p99 of {p99:.0f} s, {bound:.0f} s at most"] if p99 > bound else []
    failed += [f"only {rate:.1f} a second could be offered"] if rate < LEAST * capacity else []
    failed += ["nothing was answered"] if not answered else []
    return {
        "minutes": round(seconds / 60, 2),
        "capacity_per_s": round(capacity, 2),
        "offered_per_s": round(rate, 2),
        "answered_per_s": round(served, 2),
        "offered": offered,
        "outcomes": dict(outcomes.most_common()),
        "counted": sum(outcomes.values()),
        "p50_s": round(p50, 2),
        "p99_s": round(p99, 2),
        "p99_bound_s": round(bound, 2),
        "ttft_p50_s": round(float(np.quantile(load.firsts or [0.0], 0.5)), 2),
        "ttft_p99_s": round(float(np.quantile(load.firsts or [0.0], 0.99)), 2),
        "rss_mb_start": start,
        "rss_mb_most": max(steady),
        "rss_growth": round(growth, 4),
        "exit_code": code,
        "problems": warm.problems + load.problems,
        "failed": failed,
        "rss_mb": list(rss),
    }
