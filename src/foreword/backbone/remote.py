"""A model behind an OpenAI-compatible API, for hard prompts. Knows the API; has no weights, so no soft prompts."""

import concurrent.futures
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from foreword.backbone.answer import Answer, Inputs, OnRows, Sampling
from foreword.errors import ForewordError
from foreword.prompts import Prompt, Text, Turn, Virtual, estimated_spans, fit_budgets
from foreword.prompts import schema as schemas

PARALLEL = 8
"""Requests under way at once."""


class RemoteBackbone:
    """`openai:URL#model`; the key comes from `OPENAI_API_KEY` and is written nowhere.

    A plain prompt is sent as one user turn. With choices, the answer is the choice that the model's text begins with,
    or else the only one that it names; `value` is None where there is none. A schema goes with the request, and what
    comes back is checked against it. A token budget is held at 4 characters for each token: the model's own tokens are
    not known here.
    """

    parallel = PARALLEL

    def __init__(self, url: str, model: str) -> None:
        import openai

        parts = urlsplit(url)
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        self.name = f"openai:{place}#{model}"  # a password in the URL is not for reports
        self.model = model
        self._api = openai
        self._pool = concurrent.futures.ThreadPoolExecutor(PARALLEL)  # one for all calls, so that they share the bound
        self._client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none")

    @classmethod
    def parse(cls, name: str) -> "RemoteBackbone":
        url, _, model = name.removeprefix("openai:").partition("#")
        if not url.startswith(("http://", "https://")) or not model:
            raise ForewordError(f"remote backbone {name!r}: write it as openai:https://host/v1#model")
        return cls(url, model)

    def check(self, prompt: Prompt) -> None:
        """A remote model has no place for vectors."""
        if prompt.virtual_tokens:
            raise ForewordError(f"prompt {prompt.name!r} has virtual tokens; a remote model takes hard prompts only")

    def close(self) -> None:
        """Give the connections back."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def answer(
        self,
        prompt: Prompt,
        rows: Sequence[Inputs],
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        on_rows: OnRows | None = None,
    ) -> list[Answer]:
        """One answer per row, in order; several requests under way at once."""
        self.check(prompt)
        fitted = [fit_budgets(prompt, prompt.fill(row), estimated_spans) for row in rows]
        messages = [_messages(prompt, row) for row, _ in fitted]
        answers: list[Answer] = []
        for answer in self._pool.map(lambda m: self._ask(prompt, m, sampling), messages):
            answers.append(replace(answer, cuts=fitted[len(answers)][1]))
            if on_rows:
                on_rows(len(answers), len(rows))
        return answers

    def _ask(self, prompt: Prompt, messages: list[dict[str, str]], sampling: Sampling) -> Answer:
        schema, choices, limit = prompt.output.json_schema, prompt.output.choices, sampling.limit(prompt)
        options: dict[str, Any] = {"stop": list(sampling.stop)} if sampling.stop else {}
        if schema is not None:
            options = {"response_format": _response_format(prompt.name, schemas.closed(schema))}
        try:
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=messages,  # type: ignore[arg-type]
                max_tokens=limit,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                **options,
            )
        except self._api.OpenAIError as error:
            raise ForewordError(
                f"{self.name}: {error}; check the address, the model's name and OPENAI_API_KEY"
            ) from error
        text = (reply.choices[0].message.content or "").strip() if reply.choices else ""
        usage = reply.usage
        read_tokens, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        value, problem = _value(text, choices, schema)
        if problem is not None and reply.choices and reply.choices[0].finish_reason == "length":
            problem += f"; it was cut off after {limit:,} tokens: raise max_tokens"
        shown = text if choices is None or value is None else value
        details = usage.prompt_tokens_details if usage else None
        cached = (details.cached_tokens or 0) if details else 0
        return Answer(shown, value, None, read_tokens, written, problem=problem, cached_tokens=cached)


def _response_format(name: str, schema: schemas.Schema) -> dict[str, Any]:
    """Servers differ in what they hold an answer to; `strict` asks for all of it, which needs every key required."""
    form = {"name": re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64], "schema": schema, "strict": _all_required(schema)}
    return {"type": "json_schema", "json_schema": form}


def _all_required(schema: schemas.Schema) -> bool:
    parts: dict[str, schemas.Schema] = schema.get("properties", {})
    below = [*parts.values(), *schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
    return set(parts) == set(schema.get("required", ())) and all(map(_all_required, below))


def _value(text: str, choices: Sequence[str] | None, schema: schemas.Schema | None) -> tuple[Any, str | None]:
    """What an answer says, and what is wrong with it."""
    if schema is not None:
        try:
            return schemas.read(schema, text), None
        except ValueError as error:
            return None, str(error)
    if choices is not None:
        value = _choice(text, choices)
        return value, f"the answer {text!r:.80} is none of {list(choices)}" if value is None else None
    return text, None


def _messages(prompt: Prompt, row: Inputs) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    for piece in prompt.place(row):
        match piece:
            case Virtual():
                pass  # refused by `check`
            case Turn(role):
                messages.append({"role": role, "content": ""})
            case Text(text):
                if not messages:
                    messages.append({"role": "user", "content": ""})
                messages[-1]["content"] += text
    return messages


def _choice(text: str, choices: Sequence[str]) -> str | None:
    words = {choice: re.compile(rf"(?<!\w){re.escape(choice)}(?!\w)", re.IGNORECASE) for choice in choices}
    begins = [choice for choice, word in words.items() if word.match(text)]
    named = begins or [choice for choice, word in words.items() if word.search(text)]
    longest = max(named, key=len, default=None)
    if longest is None or any(name.casefold() not in longest.casefold() for name in named):
        return None
    return longest
