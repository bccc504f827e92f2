"""The seam between the scheduler and the two ways to run rows, and which of them a backbone gets.

That is asked of the model, by numbers. Knows ids; knows no prompts.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from foreword.backbone import probe
from foreword.backbone.answer import Sampling
from foreword.backbone.backbone import Backbone
from foreword.backbone.vectors import NONE
from foreword.prompts import Prompt
from foreword.serve.engines.local.batched import Packed
from foreword.serve.engines.local.generation import Row
from foreword.serve.engines.local.kv_cache import Fronts
from foreword.serve.engines.local.sequential import Plain
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.seam import Finished, Request, Token

CHUNK = 5
"""Tokens that the probe reads at once: fewer than it has, so that all kinds of steps are seen."""


class Runner(Protocol):
    """Runs rows a step at a time."""

    fronts: Fronts

    @property
    def used(self) -> int:
        """Bytes of keys and values that rows have reserved."""
        ...

    @property
    def total(self) -> int:
        """Bytes that there are."""
        ...

    def fits(self, row: Row) -> bool:
        """Whether there would be room for the row if it were alone."""
        ...

    def admit(self, row: Row) -> bool:
        """Reserve all that the row will need; False while there is no room."""
        ...

    def release(self, row: Row, *, spoiled: bool) -> None:
        """Give it back; wiped, where the row's numbers were `spoiled`."""
        ...

    def step(self) -> tuple[Sequence[Row], Tensor | None, int]:
        """Run the model once: the rows that can write a token now, their logits [M, V], and the tokens read.

        Rows whose front turns out not to be finite are finished with an error.
        """
        ...


def choose_runner(backbone: Backbone, kv_bytes: int, front_bytes: int, chunk: int) -> Runner:
    """In one batch where a family lets us and gives its own numbers, else one row after another."""
    if backbone.packs and _agrees(backbone, probed := Packed(backbone, 2**31, 2**31, CHUNK)):
        return Packed(backbone, kv_bytes, front_bytes, chunk, probed.decoding)
    return Plain(backbone, kv_bytes)


@torch.inference_mode()
def _agrees(backbone: Backbone, runner: Packed) -> bool:
    """Whether rows that are read in pieces and go on token by token have the model's own log-probabilities."""
    nowhere = _Nowhere()
    rows, answers = list[Row](), dict[Row, tuple[int, ...]]()
    for example in probe.PART.examples:
        for answer in example.answers:
            ids = np.concatenate([probe.PART.shared_prefix, example.question])
            sampling = Sampling(max_tokens=len(answer))
            request = Request("probe", Prompt("probe", "probe"), "probe", {}, sampling)
            row = Row(Prepared(request, ids, len(probe.PART.shared_prefix), NONE), nowhere, backbone.tokenizer, ())
            rows.append(row)
            answers[row] = answer
    found: dict[Row, list[float]] = {row: [] for row in rows}
    with probe.attempt():
        if not all(runner.admit(row) for row in rows):
            return False
        while any(not row.over for row in rows):
            ready, logits, _ = runner.step()
            for i, row in enumerate(ready):
                target = answers[row][len(row.written)]
                assert logits is not None
                found[row].append(torch.log_softmax(logits[i].float(), -1)[target].item())
                row.written.append(target)
                if len(row.written) == len(answers[row]):
                    row.over = True
                    runner.release(row, spoiled=False)
        expected = []
        for row in rows:
            whole = torch.tensor([[*row.prepared.ids, *answers[row]]], device=backbone.device)
            logits = backbone.model(input_ids=whole, use_cache=False).logits[0, len(row.prepared.ids) - 1 : -1]
            expected.append(torch.log_softmax(logits.float(), -1)[range(len(answers[row])), answers[row]])
        values = torch.tensor([value for row in rows for value in found[row]])
        return probe.alike(values, torch.cat(expected).cpu(), backbone.dtype)
    return False


class _Nowhere:
    """Takes what a probe's row says."""

    def give(self, item: Token | Finished) -> None: ...

    def begun(self) -> None: ...
