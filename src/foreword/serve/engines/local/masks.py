"""What holds one row to a JSON Schema: the backbone's grammars behind a mask over its tokens. Knows no prompts."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from foreword.backbone import Backbone
from foreword.backbone.generate import ends_of
from foreword.backbone.structured import Grammars, Hold
from foreword.errors import ForewordError
from foreword.serve.engines.seam import SchemaError


class TokenMask(Protocol):
    """What holds one answer to a grammar. Called by the engine's own thread only."""

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


class Masks(Protocol):
    """Makes what holds one answer to a schema. Raises SchemaError for one that cannot be held."""

    def __call__(self, schema: Mapping[str, Any]) -> TokenMask: ...


def masks(backbone: Backbone) -> Masks:
    """By llguidance, which is looked for when a schema is first asked for."""
    width = backbone.model.config.get_text_config().vocab_size

    @cache
    def grammars() -> Grammars:
        return Grammars(backbone.tokenizer, ends_of(backbone), backbone.name)

    def mask(schema: Mapping[str, Any]) -> Mask:
        try:
            return Mask(grammars().hold(schema, 1), width)
        except ForewordError as error:
            raise SchemaError(str(error)) from error

    return mask


class Mask:
    """A Hold of one row as the engine's TokenMask, over `width` tokens."""

    def __init__(self, hold: Hold, width: int) -> None:
        self._hold, self._width = hold, width
        self.done = False

    def allowed(self) -> torch.Tensor:
        """[V] bool."""
        allowed: torch.Tensor = torch.from_numpy(self._hold.allowed(self._width)[0])
        return allowed

    def accept(self, token_id: int) -> None:
        """Go on by a token."""
        self.done = bool(self._hold.take([token_id])[0])
