"""JSON Schemas for the engine: the backbone's grammars, one row at a time, behind the engine's mask."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.serve.service import Masks

if TYPE_CHECKING:
    from foreword.backbone.structured import Hold  # type: ignore[import-not-found, import-untyped, unused-ignore]


def masks(backbone: Backbone) -> Masks | None:
    """None where the extra that it needs is not installed."""
    try:
        from foreword.backbone.generate import ends_of  # type: ignore[attr-defined, unused-ignore]
        from foreword.backbone.structured import Grammars  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from foreword.prompts.schema import ANY_OBJECT, checked  # type: ignore[import-not-found, import-untyped, unused-ignore]

        grammars = Grammars(backbone.tokenizer, ends_of(backbone), backbone.name)
    except (ImportError, ForewordError):
        return None
    width = backbone.model.config.get_text_config().vocab_size

    def mask(schema: Mapping[str, Any]) -> Mask:
        return Mask(grammars.hold(schema if schema == ANY_OBJECT else checked(schema), 1), width)

    return mask


class Mask:
    """A Hold of one row as the engine's TokenMask, over `width` tokens."""

    def __init__(self, hold: "Hold", width: int) -> None:
        self._hold, self._width = hold, width
        self.done = False

    def allowed(self) -> torch.Tensor:
        """[V] bool."""
        allowed: torch.Tensor = torch.from_numpy(self._hold.allowed(self._width)[0])
        return allowed

    def accept(self, token_id: int) -> None:
        """Go on by a token."""
        self.done = bool(self._hold.take([token_id])[0])
