"""A request checked and turned into tokens, before anything of it reaches the model. Knows prompts and the backbone."""

from collections import OrderedDict

import torch

from foreword.backbone.backbone import Backbone
from foreword.backbone.encode import Ids, shared_front
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.serve import fit
from foreword.serve.engine import Request
from foreword.serve.local.rows import Prepared

PROMPTS = 4_096
"""Whose checks are remembered."""


class Preparer:
    """Refuses what would not fit, or is no number; one bad prompt must not reach what other prompts share."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._others: OrderedDict[str, list[Ids]] = OrderedDict()

    def row(self, request: Request) -> Prepared:
        """For text to be written. Raises ForewordError that names the prompt or input at fault."""
        ids = self._backbone.encode(request.prompt, request.inputs).ids
        return self._prepare(request, ids, request.sampling.limit(request.prompt))

    def job(self, request: Request) -> tuple[Prepared, tuple[tuple[int, ...], ...]]:
        """For one of the prompt's choices to be chosen, with the tokens of each."""
        prompt = request.prompt
        if prompt.output.choices is None:
            raise UsageError(f"prompt {prompt.name!r} has no choices to score; add 'output: {{choices: […]}}'")
        example = self._backbone.example(prompt, request.inputs, prompt.output.choices)
        return self._prepare(request, example.question, max(map(len, example.answers))), example.answers

    def _prepare(self, request: Request, ids: Ids, write: int) -> Prepared:
        backbone, prompt = self._backbone, request.prompt
        others, vectors = self._checked(prompt, ids), backbone.vectors(prompt)
        prefix = vectors.prefix
        if backbone.architecture.span(len(ids), write, prefix) > backbone.context:
            raise UsageError(
                f"a prompt of {len(ids):,} tokens and {write:,} to write are more than the {backbone.context:,} that "
                f"{backbone.name!r} can hold: ask for fewer tokens or shorten the input"
            )
        if len(ids) <= prefix:
            raise ForewordError(f"prompt {prompt.name!r} renders to nothing behind its prefix; give it some text")
        front = max(shared_front([ids, *others]) if others else 0, prefix)
        return Prepared(request, ids, front, vectors)

    def _checked(self, prompt: Prompt, ids: Ids) -> list[Ids]:
        """A row unlike any other of this prompt, which is checked when it is met for the first time."""
        if (others := self._others.get(prompt.digest)) is None:
            fit.check(self._backbone, prompt)
            self._backbone.learned(ids, self._backbone.vectors(prompt))
            others = self._others[prompt.digest] = self._backbone.other_row(prompt)
            if len(self._others) > PROMPTS:
                self._others.popitem(last=False)
        return others


@torch.inference_mode()
def warm(backbone: Backbone) -> None:
    """Compute what the first request would otherwise wait for."""
    _ = backbone.fingerprint
