"""FlexAttention as a GPU is given it, with no kernel: traced through dynamo and autograd, and run as it was traced."""

import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention

from foreword.backbone import flex


def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where torch has no kernel for its way back and refuses it."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "compiled", _traced)


@cache
def _traced(function: Any) -> Any:
    torch._dynamo.config.recompile_limit = 1000
    made = torch.compile(function, dynamic=True, fullgraph=True, backend="aot_eager")

    def quietly(*args: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it does itself
            return made(*args, **options)

    return quietly
