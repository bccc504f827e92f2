"""From a request's body to rows for the engine: which prompt, its inputs, how to sample, by which schema to decode.

Knows bodies and prompts; knows no responses.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foreword.backbone import Sampling
from foreword.prompts import Input, Prompt
from foreword.prompts import schema as schemas
from foreword.serve.engines.seam import Request
from foreword.serve.http.bodies import ChatBody, ClassifyBody, CompletionBody, Message
from foreword.serve.http.refusals import bad
from foreword.serve.http.service import Limits, Service
from foreword.serve.http.tools import Toolbox, to_turns
from foreword.serve.prompts import Served

MESSAGES = "messages"
"""A variable of this name, declared as an array, takes a whole chat."""
CHAT = Prompt(
    "chat",
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ system() }}{% elif m.role == 'user' %}{{ user() }}{% else %}{{ assistant() }}"
    "{% endif %}{{ m.content }}{% endfor %}",
    inputs={MESSAGES: Input(type="array")},
)
"""What the bare backbone reads of a chat: its own template around contents that can never become roles."""
TEXT = Prompt("text", "{{ prompt }}")


@dataclass(frozen=True)
class Call:
    """What one HTTP request asks of the engine."""

    served: Served
    rows: tuple[Request, ...]
    tools: Toolbox | None = None


async def chat(service: Service, body: ChatBody, request_id: str) -> Call:
    """Raises Refusal where it cannot be asked."""
    tools = Toolbox.of(body)
    form = body.response_format.type if body.response_format is not None else "text"
    if tools is not None and form != "text":
        raise bad(f"'tools' and a response format {form!r} cannot be asked for together", "response_format")
    if body.model == service.backbone:
        served, inputs = _bare_chat(service, body, tools)
    else:
        served = await _served(service, body.model)
        inputs = _inputs(served.prompt, body.inputs, body.messages)
        _check_texts(served, inputs)
        form_asked = form != "text" and body.response_format
        _refuse_of_strategy(served, {"tools": body.tools, "response_format": form_asked, "logprobs": body.logprobs})
    schema: Mapping[str, Any] | None = tools.schema if tools is not None else None
    if body.response_format is not None and body.response_format.json_schema is not None:
        schema = body.response_format.json_schema.schema_
    elif form == "json_object":
        schema = getattr(served.prompt.output, "json_schema", None) or schemas.ANY_OBJECT
    top = max(1, body.top_logprobs or 0) if body.logprobs else 0
    if body.top_logprobs and not body.logprobs:
        raise bad("'top_logprobs' needs 'logprobs': true", "top_logprobs")
    limit = body.max_completion_tokens or body.max_tokens
    return Call(served, _rows(service, served, [inputs], body, limit, top, schema, request_id), tools)


async def _served(service: Service, model: str) -> Served:
    """What `model` names: a strategy of this server, or a prompt of the table."""
    return service.strategies.get(model) or await service.prompts.get(model)


def _refuse_of_strategy(served: Served, wanted: Mapping[str, object]) -> None:
    """Raises Refusal where more is asked of a chain or a function than its answer."""
    if served.strategy and (asked := next((name for name, value in wanted.items() if value), None)):
        raise bad(f"{served.prompt.name!r} is a chain or a function, and {asked!r} is for prompts", asked)


def _check_texts(served: Served, inputs: Mapping[str, object]) -> None:
    """Raises Refusal where a chain or a function is given something else than texts."""
    for name, value in inputs.items():
        if served.strategy and not isinstance(value, str):
            raise bad(f"{served.prompt.name!r}: input {name!r} must be a text, not {value!r:.80}", "inputs")


async def completion(service: Service, body: CompletionBody, request_id: str) -> Call:
    """Raises Refusal where it cannot be asked."""
    texts: Sequence[str | None] = [body.prompt] if isinstance(body.prompt, str) else body.prompt or [None]
    if body.model == service.backbone:
        if body.inputs or None in texts:
            raise bad(f"the bare backbone {body.model!r} takes a 'prompt' and no 'inputs'", "prompt")
        served = Served(f"{body.model}:text", TEXT)
        inputs: list[Mapping[str, object]] = [{"prompt": text} for text in texts]
    else:
        served = await _served(service, body.model)
        inputs = [_inputs(served.prompt, body.inputs, None if text is None else [_user(text)]) for text in texts]
        for row in inputs:
            _check_texts(served, row)
        _refuse_of_strategy(served, {"logprobs": body.logprobs is not None})
    top = max(1, body.logprobs) if body.logprobs is not None else 0
    limit = 1 if body.echo else body.max_tokens
    return Call(served, _rows(service, served, inputs, body, limit, top, None, request_id))


async def classify(service: Service, body: ClassifyBody, request_id: str) -> Call:
    """Raises Refusal where it cannot be asked."""
    if body.model == service.backbone:
        raise bad(f"the bare backbone {body.model!r} has no choices; name a prompt that declares some", "model")
    served = await _served(service, body.model)
    if served.prompt.output.choices is None:
        raise bad(f"prompt {served.key!r} declares no choices; use /v1/chat/completions", "model")
    inputs = _inputs(served.prompt, body.inputs, None if body.input is None else [_user(body.input)])
    _check_texts(served, inputs)
    return Call(served, (_request(service, served, inputs, Sampling(), 0, f"{request_id}-0"),))


def _bare_chat(service: Service, body: ChatBody, tools: Toolbox | None) -> tuple[Served, Mapping[str, object]]:
    if not service.chats:
        raise bad(f"the backbone {body.model!r} has no chat template; use /v1/completions", "model")
    if body.inputs:
        raise bad(f"the bare backbone {body.model!r} takes 'messages' and no 'inputs'", "inputs")
    messages = to_turns(body.messages)
    if not any(message["content"] for message in messages):
        raise bad("'messages' hold no text", "messages")
    if tools is not None:
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": ""})
        messages[0]["content"] = f"{messages[0]['content']}\n\n{tools.instructions}".strip()
    return Served(f"{body.model}:chat", CHAT), {MESSAGES: messages}


def _inputs(
    prompt: Prompt, given: Mapping[str, object] | None, messages: Sequence[Message] | None
) -> dict[str, object]:
    """`given`, and what the last user message fills: the only variable that is left. Raises Refusal."""
    inputs, specs = dict(given or {}), prompt.specs
    if others := sorted(inputs.keys() - set(prompt.variables) - set(specs)):
        raise bad(f"prompt {prompt.name!r} has no input {others[0]!r}; it takes {list(prompt.variables)}", "inputs")
    needed = [v for v in prompt.variables if getattr(specs.get(v), "default", None) is None]
    missing = [v for v in needed if v not in inputs]
    if messages is not None and missing == [MESSAGES] and MESSAGES in specs and specs[MESSAGES].type == "array":
        inputs[MESSAGES] = to_turns(messages)
        missing = []
    user_texts = [message.text for message in messages or () if message.role == "user"]
    if len(missing) == 1 and user_texts:
        inputs[missing[0]] = user_texts[-1]
    elif missing:
        raise bad(
            f"prompt {prompt.name!r} needs the inputs {missing}; give them in 'inputs'"
            + (", or the only one as the last user message" if len(missing) == 1 else ""),
            "inputs",
        )
    return inputs


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _rows(
    service: Service,
    served: Served,
    inputs: Sequence[Mapping[str, object]],
    body: ChatBody | CompletionBody,
    limit: int | None,
    top: int,
    schema: Mapping[str, Any] | None,
    request_id: str,
) -> tuple[Request, ...]:
    limits = service.limits
    if limit is not None and limit > limits.max_tokens:
        raise bad(f"{limit:,} tokens are asked for, {limits.max_tokens:,} at most are written here", "max_tokens")
    if body.n * len(inputs) > limits.rows:
        raise bad(f"{body.n * len(inputs):,} answers are asked for, {limits.rows:,} at most in one request", "n")
    schema = schema if schema is not None else getattr(served.prompt.output, "json_schema", None)
    if schema is not None and served.prompt.output.choices is not None:
        raise bad(f"prompt {served.key!r} answers one of its choices, and cannot be constrained to a schema", "model")
    schema = _checked(schema) if schema is not None else None
    seed = body.seed if body.seed is not None else secrets.randbits(31) if body.temperature > 0 else 0
    sampling = Sampling(
        limit or _default_tokens(limits, served, schema),
        body.temperature,
        body.top_p,
        body.stops if schema is None else (),  # JSON by a schema ends by itself
        seed,
    )
    rows: list[Request] = []
    for row in inputs:
        for i in range(body.n):
            ours = replace(sampling, seed=(seed + i) % 2**63)
            request = _request(service, served, row, ours, top, f"{request_id}-{len(rows)}")
            rows.append(replace(request, schema=schema))
    return tuple(rows)


def _default_tokens(limits: Limits, served: Served, schema: Mapping[str, Any] | None) -> int | None:
    """Tokens that are written at most where nobody says; of a strategy each step has its own default."""
    if served.strategy:
        return None
    return min(limits.default_tokens if schema is None else limits.json_tokens, limits.max_tokens)


def _checked(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if schema == schemas.ANY_OBJECT:  # an answer may be constrained to it, and nothing is asked of its fields
        return schema
    try:
        return schemas.checked(schema)
    except ValueError as error:
        raise bad(f"the schema cannot be used: {error}", "response_format") from None


def _request(
    service: Service, served: Served, inputs: Mapping[str, object], sampling: Sampling, top: int, request_id: str
) -> Request:
    deadline = time.monotonic() + service.limits.seconds
    return Request(request_id, served.prompt, served.key, inputs, sampling, deadline, top)
