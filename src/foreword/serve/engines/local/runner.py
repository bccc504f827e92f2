"""The seam between the scheduler and the two ways to run rows, and which of them a backbone gets.

That is asked of the model, by numbers. Knows ids; knows no prompts.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from foreword.backbone import NO_VECTORS, Backbone, Sampling, probe
from foreword.prompts import Prompt
from foreword.serve.engines.local.batched import BatchedRunner
from foreword.serve.engines.local.generation import Generation
from foreword.serve.engines.local.kv_cache import PrefixCaches
from foreword.serve.engines.local.sequential import SequentialRunner
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.seam import Finished, Request, Token

CHUNK = 5
"""Tokens that the probe prefills at once: fewer than it has, so that all kinds of steps are seen."""


class Runner(Protocol):
    """Runs rows a step at a time."""

    prefix_caches: PrefixCaches

    @property
    def used(self) -> int:
        """Bytes of keys and values that rows have reserved."""
        ...

    @property
    def total(self) -> int:
        """Bytes of keys and values that there is room for."""
        ...

    def fits(self, row: Generation) -> bool:
        """Whether there would be room for the row if it were alone."""
        ...

    def admit(self, row: Generation) -> bool:
        """Reserve all that the row will need; False while there is no room."""
        ...

    def release(self, row: Generation, *, wipe: bool) -> None:
        """Give it back; wiped first, where the row's numbers may not be finite."""
        ...

    def step(self) -> tuple[Sequence[Generation], Tensor | None, int]:
        """Run the model once: the rows that can write a token now, their logits [M, V], and the tokens read.

        Rows whose shared prefix turns out not to be finite are finished with an error.
        """
        ...


def choose_runner(backbone: Backbone, kv_bytes: int, prefix_cache_bytes: int, chunk: int) -> Runner:
    """Rows in one batch where a family lets us and gives its own numbers, else one row after another."""
    if backbone.packs and _agrees(backbone, probed := BatchedRunner(backbone, 2**31, 2**31, CHUNK)):
        return BatchedRunner(backbone, kv_bytes, prefix_cache_bytes, chunk, probed.linears)
    return SequentialRunner(backbone, kv_bytes)


@torch.inference_mode()
def _agrees(backbone: Backbone, runner: BatchedRunner) -> bool:
    """Whether rows that are prefilled in chunks and decoded together have the model's own log-probabilities."""
    nobody = _Nobody()
    rows, answers = list[Generation](), dict[Generation, tuple[int, ...]]()
    for example in probe.PART.examples:
        for answer in example.answers:
            ids = np.concatenate([probe.PART.shared_prefix, example.question])
            sampling = Sampling(max_tokens=len(answer))
            request = Request("probe", Prompt("probe", "probe"), "probe", {}, sampling)
            row = Generation(
                Prepared(request, ids, len(probe.PART.shared_prefix), NO_VECTORS), nobody, backbone.tokenizer, ()
            )
            rows.append(row)
            answers[row] = answer
    logprobs: dict[Generation, list[float]] = {row: [] for row in rows}
    with probe.attempt():
        if not all(runner.admit(row) for row in rows):
            return False
        while any(not row.over for row in rows):
            ready, logits, _ = runner.step()
            for i, row in enumerate(ready):
                target = answers[row][len(row.written)]
                assert logits is not None
                logprobs[row].append(torch.log_softmax(logits[i].float(), -1)[target].item())
                row.written.append(target)
                if len(row.written) == len(answers[row]):
                    row.over = True
                    runner.release(row, wipe=False)
        expected = []
        for row in rows:
            whole = torch.tensor([[*row.prepared.ids, *answers[row]]], device=backbone.device)
            logits = backbone.model(input_ids=whole, use_cache=False).logits[0, len(row.prepared.ids) - 1 : -1]
            expected.append(torch.log_softmax(logits.float(), -1)[range(len(answers[row])), answers[row]])
        values = torch.tensor([value for row in rows for value in logprobs[row]])
        return probe.alike(values, torch.cat(expected).cpu(), backbone.dtype)
    return False


class _Nobody:
    """A sink that drops what a probe's row says."""

    def give(self, item: Token | Finished) -> None: ...

    def begun(self) -> None: ...
