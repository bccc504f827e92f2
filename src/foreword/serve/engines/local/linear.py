"""Weights laid out once for products with few rows, as decoding needs them. Knows modules; knows no rows.

A general product lays a part of the weights out anew on every call, which is most of the work where there are only a
few rows to multiply. On a CPU, oneDNN keeps weights in its own layout. What that gives depends on the machine and on
each matrix' shape, so it is timed, and a second copy is kept only of what gets clearly quicker.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

ALONE, BATCH = range(1, 4), range(4, 48)
"""Rows of one or a few requests, and of many. Products with more rows do not gain."""
TIMED = {ALONE: 1, BATCH: 16}
"""The number of rows at which each of them is timed."""
QUICKER = 0.9
"""The most that a laid out product may take, as a share of the plain one's time."""
SHARE = 0.25
"""The share of the free memory that second copies may take."""


class DecodeLinears:
    """Makes the model's products quick for batches of some rows; the numbers are the same but for rounding."""

    def __init__(self, model: Any) -> None:
        self._forwards: dict[range, list[tuple[dict[str, Any], Callable[[Tensor], Tensor]]]] = {ALONE: [], BATCH: []}
        device = next(model.parameters()).device
        if device.type == "cpu" and torch.backends.mkldnn.is_available():
            with contextlib.suppress(RuntimeError, AttributeError):  # an operation that this torch lacks
                self._lay_out(model)

    @contextlib.contextmanager
    def of(self, tokens: int) -> Iterator[None]:
        """For a forward pass over so many tokens. The model is as it was afterwards."""
        forwards = next((quicker for rows, quicker in self._forwards.items() if tokens in rows), [])
        for attributes, forward in forwards:
            attributes["forward"] = forward  # past nn.Module's own bookkeeping, which takes longer than a product
        try:
            yield
        finally:
            for attributes, _ in forwards:
                del attributes["forward"]

    @torch.inference_mode()
    def _lay_out(self, model: Any) -> None:
        linears = [m for m in model.modules() if type(m) is nn.Linear and m.weight.dtype in _DTYPES]
        linears = [m for m in linears if "forward" not in m.__dict__]  # somebody else's way of calling it
        if sum(m.weight.nbytes for m in linears) > SHARE * _free_bytes():
            return
        quicker: dict[tuple[int, ...], list[range]] = {}
        for linear in linears:
            shape = tuple(linear.weight.shape)
            if quicker.get(shape) == []:
                continue
            forward = _laid_out(linear)
            if shape not in quicker:
                quicker[shape] = [rows for rows, count in TIMED.items() if _gains(linear, forward, count)]
            for rows in quicker[shape]:
                self._forwards[rows].append((linear.__dict__, forward))


_DTYPES = (torch.float32, torch.bfloat16)


def _laid_out(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TIMED[BATCH])
    bias, product = linear.bias, torch.ops.mkldnn._linear_pointwise

    def forward(input: Tensor) -> Tensor:
        output: Tensor = product(input, weight, bias, "none", [], "")
        return output

    return forward


def _gains(linear: nn.Linear, forward: Callable[[Tensor], Tensor], rows: int) -> bool:
    given = torch.ones(1, rows, linear.in_features, dtype=linear.weight.dtype)
    plain, laid_out = list[float](), list[float]()
    for _ in range(7):
        for call, seconds in ((linear, plain), (forward, laid_out)):
            began = time.perf_counter()
            call(given)
            seconds.append(time.perf_counter() - began)
    return min(laid_out) < QUICKER * min(plain)


def _free_bytes() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on this system
        return 0
