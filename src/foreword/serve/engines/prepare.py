"""A request checked and turned into tokens before it reaches a model, and choices' likelihoods into an answer.

Knows prompts and the backbone; knows no engine.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foreword.backbone import Answer, Backbone, Ids, Scores, Vectors, shared_prefix_length
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.serve.engines.seam import Request

PROMPTS = 4_096
"""The most prompts whose checks are remembered."""


@dataclass(frozen=True)
class Prepared:
    """A request as tokens, checked: what an engine takes."""

    request: Request
    ids: Ids
    """[T] the prompt, virtual tokens below zero."""
    shared_prefix_length: int
    """F: how many of them all rows of the prompt begin with."""
    vectors: Vectors

    @property
    def prefix_cache_key(self) -> tuple[str, bytes]:
        """What the prefix cache is found by: the prompt's digest, and the ids of its shared prefix."""
        return self.request.prompt.digest, self.ids[: self.shared_prefix_length].tobytes()


class Preparer:
    """Turns requests into tokens, and refuses those that would not fit or whose vectors are not finite.

    One bad prompt must not reach what other prompts share. Rows have at most `context` tokens, vectors no number beyond
    ±`largest`.
    """

    def __init__(self, backbone: Backbone, context: int | None = None, largest: float = math.inf) -> None:
        self._backbone = backbone
        self._context, self._largest = context or backbone.context, largest
        self._others: OrderedDict[str, list[Ids]] = OrderedDict()

    def generation(self, request: Request) -> Prepared:
        """The row of a request for text. Raises ForewordError that names the prompt or input at fault."""
        ids = self._backbone.encode(request.prompt, request.inputs).ids
        return self._prepare(request, ids, request.sampling.limit(request.prompt))

    def choices(self, request: Request) -> tuple[Prepared, tuple[tuple[int, ...], ...]]:
        """The row of a request for one of the prompt's choices, and the tokens of each choice. Raises ForewordError."""
        prompt = request.prompt
        if prompt.output.choices is None:
            raise UsageError(f"prompt {prompt.name!r} has no choices to score; add 'output: {{choices: […]}}'")
        example = self._backbone.example(prompt, request.inputs, prompt.output.choices)
        return self._prepare(request, example.question, max(map(len, example.answers))), example.answers

    def _prepare(self, request: Request, ids: Ids, write: int) -> Prepared:
        backbone, prompt = self._backbone, request.prompt
        others, vectors = self._checked(prompt, ids), backbone.vectors(prompt)
        prefix = vectors.prefix
        if backbone.architecture.span(len(ids), write, prefix) > self._context:
            raise UsageError(
                f"a prompt of {len(ids):,} tokens and {write:,} to write are more than the {self._context:,} that "
                f"{backbone.name!r} can hold: ask for fewer tokens or shorten the input"
            )
        if len(ids) <= prefix:
            raise ForewordError(f"prompt {prompt.name!r} renders to nothing behind its prefix; give it some text")
        F = max(shared_prefix_length([ids, *others]) if others else 0, prefix)
        return Prepared(request, ids, F, vectors)

    def _checked(self, prompt: Prompt, ids: Ids) -> list[Ids]:
        """A row unlike any other of this prompt in every input; a prompt that is met for the first time is checked."""
        if (others := self._others.get(prompt.digest)) is None:
            check_prompt(self._backbone, prompt, self._largest)
            self._backbone.embedder.learned(ids, self._backbone.vectors(prompt))
            others = self._others[prompt.digest] = self._backbone.other_row(prompt)
            if len(self._others) > PROMPTS:
                self._others.popitem(last=False)
        return others


def check_prompt(backbone: Backbone, prompt: Prompt, largest: float = math.inf) -> None:
    """Raises ForewordError for vectors of another backbone or shape, or that its dtype cannot hold.

    A value that is finite in fp32 can be infinite in bfloat16, and one such row could make a whole batch non-finite.
    Nor may any lie beyond ±`largest`.
    """
    backbone.check(prompt)
    for name, array in prompt.soft.tensors.items() if prompt.soft is not None else ():
        tensor = torch.from_numpy(array).to(backbone.dtype)
        if not tensor.isfinite().all():
            dtype = str(backbone.dtype).removeprefix("torch.")
            raise ForewordError(
                f"{name!r} of prompt {prompt.name!r} is not finite in {dtype}: tune it again, or load the backbone in "
                "float32"
            )
        if tensor.abs().max() > largest:
            raise ForewordError(
                f"{name!r} of prompt {prompt.name!r} holds numbers beyond ±{largest:,.0f}, which could make other "
                "prompts' logits non-finite: tune it again"
            )


def choose_answer(prepared: Prepared, answers: Sequence[Sequence[int]], log_likelihoods: Sequence[float]) -> Answer:
    """The answer to a row, by the tokens of every choice and its log-likelihood in nats."""
    output, length = prepared.request.prompt.output, len(prepared.ids)
    assert output.choices is not None
    lengths = np.array([[len(answer) for answer in answers]])
    scores = Scores(np.array([log_likelihoods]), lengths, np.array([length]))
    text = output.choices[scores.choose(output.log_prior)[0]]
    shares = scores.probabilities(output.log_prior)[0].tolist()
    return Answer(text, text, tuple(log_likelihoods), length, 0, tuple(shares))
