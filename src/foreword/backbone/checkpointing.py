"""Activation checkpointing of the frozen model's layers (Chen 2016). Knows modules and layouts; knows no prompts.

A step then keeps one layer's activations at a time instead of all layers', and computes the others again on its way
back. The model's own code is left alone: for the length of a forward pass, each layer is called through here with what
it needs of the layout.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from foreword.backbone.layout import Layout


class Layers:
    """The decoder layers of a transformers model, whose attention windows are `windows`, in order."""

    def __init__(self, model: Any, windows: Sequence[int | None]) -> None:
        names = set(getattr(model, "_no_split_modules", None) or ())
        layers = [module for module in model.modules() if type(module).__name__ in names]
        self.known = len(layers) == len(windows) > 0
        """Whether the layers could be told apart; where not, their activations are always kept."""
        self._layers = list(zip(layers, windows, strict=True)) if self.known else []

    @contextlib.contextmanager
    def checkpointed(self, layout: Layout) -> Iterator[None]:
        """For the model's next forward pass. The model is as it was afterwards, so that a copy of it stays a copy."""
        for layer, window in self._layers:
            layer.forward = _checkpointed(layer, window, layout)
        try:
            yield
        finally:
            for layer, _ in self._layers:
                del layer.forward


def _checkpointed(layer: nn.Module, window: int | None, layout: Layout) -> Callable[..., Any]:
    plain = type(layer).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs["layout"] = layout.next_layer(window)
        return checkpoint(plain, layer, *args, use_reentrant=False, **kwargs)

    return forward
