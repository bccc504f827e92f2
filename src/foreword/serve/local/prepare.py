"""A request checked and turned into tokens, before anything of it reaches the model. Knows prompts and the backbone."""

from collections import OrderedDict
from dataclasses import replace

import torch

from foreword.backbone.backbone import Backbone
from foreword.backbone.encode import Ids, shared_front
from foreword.errors import ForewordError, UsageError
from foreword.serve.engine import Request
from foreword.serve.local.masks import Masks
from foreword.serve.local.rows import Prepared

PROMPTS = 4_096
"""Whose checks are remembered."""


class Preparer:
    """Refuses what would not fit, or is no number; one bad prompt must not reach what other prompts share."""

    def __init__(self, backbone: Backbone, masks: Masks) -> None:
        self._backbone, self._masks = backbone, masks
        self._others: OrderedDict[str, list[Ids]] = OrderedDict()

    def row(self, request: Request) -> Prepared:
        """For text to be written. Raises ForewordError that names the prompt, input or schema at fault."""
        prepared = self._prepare(request, request.sampling.limit(request.prompt))
        return prepared if request.schema is None else replace(prepared, mask=self._masks(request.schema))

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
        if backbone.architecture.span(len(ids), write, prefix) > backbone.context:
            raise UsageError(
                f"a prompt of {len(ids):,} tokens and {write:,} to write are more than the {backbone.context:,} that "
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
            self._backbone.check(prompt)
            vectors, like = self._backbone.vectors(prompt), self._backbone.dtype
            for tensor in (vectors.embeddings, vectors.keys, vectors.values, vectors.offsets):
                if tensor is not None and not tensor.to(like).isfinite().all():
                    raise ForewordError(
                        f"prompt {prompt.name!r}: its vectors are not finite in {str(like).removeprefix('torch.')}: "
                        "tune it again, or load the backbone in float32"
                    )
            self._backbone.learned(self._backbone.encode(prompt, request.inputs).ids, vectors)
            others = self._others[prompt.digest] = self._backbone.other_row(prompt)
            if len(self._others) > PROMPTS:
                self._others.popitem(last=False)
        return others


@torch.inference_mode()
def warm(backbone: Backbone) -> None:
    """Compute what the first request would otherwise wait for."""
    _ = backbone.fingerprint
