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
from foreword.prompts import Prompt, Text, Turn, Virtual
from foreword.prompts.budget import estimated, fit

PARALLEL = 8
"""Requests under way at once."""


class RemoteBackbone:
    """`openai:URL#model`; the key comes from `OPENAI_API_KEY` and is written nowhere.

    A plain prompt is sent as one user turn. With choices, the answer is the choice that the model's text begins with,
    or else the only one that it names; `value` is None where there is none. A token budget is held at 4 characters for
    each token: the model's own tokens are not known here.
    """

    def __init__(self, url: str, model: str) -> None:
        import openai

        parts = urlsplit(url)
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        self.name = f"openai:{place}#{model}"  # a password in the URL is not for reports
        self.model = model
        self._api = openai
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
        fitted = [fit(prompt, row, estimated) for row in rows]
        messages = [_messages(prompt, row) for row, _ in fitted]
        answers: list[Answer] = []
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            for answer in pool.map(lambda m: self._ask(prompt, m, sampling), messages):
                answers.append(replace(answer, cuts=fitted[len(answers)][1]))
                if on_rows:
                    on_rows(len(answers), len(rows))
        return answers

    def _ask(self, prompt: Prompt, messages: list[dict[str, str]], sampling: Sampling) -> Answer:
        options: dict[str, Any] = {"stop": list(sampling.stop)} if sampling.stop else {}
        try:
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=messages,  # type: ignore[arg-type]
                max_tokens=sampling.max_tokens,
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
        value = text if prompt.output.choices is None else _choice(text, prompt.output.choices)
        usage = reply.usage
        read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Answer(value or text, value, None, read, written)


def _messages(prompt: Prompt, row: Inputs) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    for piece in prompt.render(row):
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
