"""A request checked and turned into tokens, before anything of it reaches a model. Knows prompts and the backbone."""

import math
from collections import OrderedDict
from dataclasses import dataclass

from foreword.backbone.backbone import Backbone
from foreword.backbone.encode import Ids, shared_front
from foreword.backbone.vectors import Vectors
from foreword.errors import ForewordError, UsageError
from foreword.serve import fit
from foreword.serve.engine import Request

PROMPTS = 4_096
"""Whose checks are remembered."""


@dataclass(frozen=True)
class Prepared:
    """A request as tokens, checked: what an engine takes."""

    request: Request
    ids: Ids
    """[T] the prompt, virtual tokens below zero."""
    front: int
    """F: how many of them all rows of the prompt begin with."""
    vectors: Vectors

    @property
    def key(self) -> tuple[str, bytes]:
        """What the front is told by: the prompt's digest, and its ids."""
        return self.request.prompt.digest, self.ids[: self.front].tobytes()


class Preparer:
    """Refuses what would not fit, or is no number; one bad prompt must not reach what other prompts share.

    Rows have at most `context` tokens, vectors no number beyond ±`largest`.
    """

    def __init__(self, backbone: Backbone, context: int | None = None, largest: float = math.inf) -> None:
        self._backbone = backbone
        self._context, self._largest = context or backbone.context, largest
        self._others: OrderedDict[str, list[Ids]] = OrderedDict()

    def row(self, request: Request) -> Prepared:
        """For text to be written. Raises ForewordError that names the prompt or input at fault."""
        return self._prepare(request, request.sampling.limit(request.prompt))

    def job(self, request: Request) -> tuple[Prepared, tuple[tuple[int, ...], ...]]:
        """For one of the prompt's choices to be chosen, with the tokens of each."""
        prompt = request.prompt
        if prompt.output.choices is None:
            raise UsageError(f"prompt {prompt.name!r} has no choices to score; add 'output: {{choices: […]}}'")
        answers = self._backbone.example(prompt, request.inputs, prompt.output.choices).answers
        return self._prepare(request, max(map(len, answers))), answers

    def _prepare(self, request: Request, write: int) -> Prepared:
        backbone, prompt = self._backbone, request.prompt
        others = self._checked(request)
        encoded, vectors = backbone.encode(prompt, request.inputs), backbone.vectors(prompt)
        ids, prefix = encoded.ids, vectors.prefix
        if backbone.architecture.span(len(ids), write, prefix) > self._context:
            raise UsageError(
                f"a prompt of {len(ids):,} tokens and {write:,} to write are more than the {self._context:,} that "
                f"{backbone.name!r} can hold: ask for fewer tokens or shorten the input"
            )
        if len(ids) <= prefix:
            raise ForewordError(f"prompt {prompt.name!r} renders to nothing behind its prefix; give it some text")
        front = max(shared_front([ids, *others]) if others else 0, prefix)
        return Prepared(request, ids, front, vectors)

    def _checked(self, request: Request) -> list[Ids]:
        """A row unlike any other of this prompt, which is checked when it is met for the first time."""
        prompt = request.prompt
        if (others := self._others.get(prompt.digest)) is None:
            fit.check(self._backbone, prompt, self._largest)
            self._backbone.learned(self._backbone.encode(prompt, request.inputs).ids, self._backbone.vectors(prompt))
            others = self._others[prompt.digest] = self._backbone.other_row(prompt)
            if len(self._others) > PROMPTS:
                self._others.popitem(last=False)
        return others
