"""The next token of one row: by its own settings and random numbers, within what a grammar allows. Knows no text."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from foreword.backbone import Backbone, Constraint, Grammars, Sampling, end_tokens
from foreword.errors import ForewordError
from foreword.serve.engines.seam import SchemaError

TOP = 1_024
"""The likeliest tokens that are sorted for `top_p`; where they do not reach it, all are."""


class Sampler:
    """Samples for one row: its tokens depend on its own logits and seed, and on no other row's."""

    def __init__(self, sampling: Sampling) -> None:
        self.greedy = sampling.temperature == 0
        self._sampling = sampling
        self._rng = torch.Generator()
        self._rng.manual_seed(sampling.seed % 2**63)

    def sample(self, logits: Tensor) -> int:
        """An id by logits [V], of which one at least is finite."""
        if self.greedy:
            return int(logits.argmax())
        # By differences to the largest, which no temperature, however small, turns into infinity minus infinity.
        wide = logits.double()
        shares = torch.softmax((wide - wide.max()) / self._sampling.temperature, -1)
        order = None
        if self._sampling.top_p < 1:
            shares, order = self._nucleus(shares)
        reached = shares.cumsum(0)
        drawn = torch.rand((), generator=self._rng, dtype=torch.float64).item() * reached[-1].item()
        place = min(int(torch.searchsorted(reached, drawn, right=True)), len(shares) - 1)
        return place if order is None else int(order[place])

    def _nucleus(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens that together reach `top_p`, the one that reaches it included, and their ids."""
        values, order = shares.topk(min(TOP, len(shares)))
        if len(values) < len(shares) and values.sum().item() < self._sampling.top_p:
            values, order = shares.sort(descending=True)
        before = values.cumsum(0) - values
        count = max(1, int((before < self._sampling.top_p).sum()))
        return values[:count], order[:count]


def constrain(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Logits [V] with the tokens that are not `allowed` at minus infinity.

    Where the model gives all that is allowed no chance, all of it is alike; where nothing is allowed, nothing changes.
    """
    if allowed is None:
        return logits
    allowed = allowed.to(logits.device)[: len(logits)]
    allowed = torch.nn.functional.pad(allowed, (0, len(logits) - len(allowed)))
    if not allowed.any():
        return logits
    result = logits.masked_fill(~allowed, -torch.inf)
    return torch.where(allowed, 0.0, -torch.inf).to(logits) if result.isneginf().all() else result


class TokenMask(Protocol):
    """The constraint of one answer to a grammar. Called by the engine's own thread only."""

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        ...

    def allowed(self) -> Tensor | None:
        """[V] bool: the tokens that may come next; None where all may."""
        ...

    def accept(self, token_id: int) -> None:
        """Go on by a token that was chosen, one that ends a text included."""
        ...


class MaskMaker(Protocol):
    """Makes the mask that constrains one answer to a schema. Raises SchemaError where it cannot."""

    def __call__(self, schema: Mapping[str, Any]) -> TokenMask: ...


def grammar_masks(backbone: Backbone) -> MaskMaker:
    """Masks by llguidance, which is looked for when a schema is first asked for."""
    width = backbone.model.config.get_text_config().vocab_size

    @cache
    def grammars() -> Grammars:
        return Grammars(backbone.tokenizer, end_tokens(backbone), backbone.name)

    def mask(schema: Mapping[str, Any]) -> GrammarMask:
        try:
            return GrammarMask(grammars().constraint(schema, 1), width)
        except ForewordError as error:
            raise SchemaError(str(error)) from error

    return mask


class GrammarMask:
    """The backbone's constraint of one row as the engine's TokenMask, over `width` tokens."""

    def __init__(self, constraint: Constraint, width: int) -> None:
        self._constraint, self._width = constraint, width
        self.done = False

    def allowed(self) -> torch.Tensor:
        """[V] bool."""
        allowed: torch.Tensor = torch.from_numpy(self._constraint.allowed(self._width)[0])
        return allowed

    def accept(self, token_id: int) -> None:
        """Go on by a token."""
        self.done = bool(self._constraint.accept([token_id])[0])
