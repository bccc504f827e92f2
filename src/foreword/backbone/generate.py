"""Text behind token ids, through transformers' own `generate`. Knows ids and vectors; knows no prompts."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from foreword.backbone.answer import Sampling
from foreword.backbone.encode import Ids
from foreword.backbone.model import FrozenModel
from foreword.backbone.structured import Constraint
from foreword.backbone.vectors import Vectors

_RNG_LOCK = threading.Lock()
"""torch's random numbers come from one place for the whole process."""


def end_tokens(model: FrozenModel) -> list[int]:
    """The tokens that end a text, by the model's settings or the tokenizer's."""
    ends = model.model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    end = model.tokenizer.eos_token_id
    return ends if end is None or end in ends else [*ends, end]


def generate_ids(
    model: FrozenModel,
    prompts: Sequence[Ids],
    vectors: Vectors,
    sampling: Sampling,
    limit: int,
    constraint: Constraint | None = None,
) -> list[list[int]]:
    """New token ids for each prompt [T], `limit` at most, end-of-text and padding taken off.

    `constraint` keeps every row to its grammar, which also says where it ends.
    """
    learned = model.embedder.learned(prompts[0], vectors)
    rows = [model.embedder.embed_row(ids[vectors.prefix :], vectors) for ids in prompts]
    ends = end_tokens(model) if constraint is None else constraint.ends
    # A model's own generation settings give way: what is asked for here is all that changes its probabilities.
    plain: dict[str, Any] = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "num_beams": 1}
    options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampling.temperature > 0:
        options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    if constraint is not None:
        options |= constraint.options
    elif sampling.stop:
        options |= {"stop_strings": list(sampling.stop), "tokenizer": model.tokenizer}
    with torch.no_grad(), _seeded(sampling):
        new = model.architecture.generate(
            rows,
            model.embedder.new_cache(learned, len(rows)) if learned else None,
            max_new_tokens=limit,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **plain,
            **options,
        )
    return [_until(row, ends) for row in new.tolist()]


@contextlib.contextmanager
def _seeded(sampling: Sampling) -> Iterator[None]:
    """Random numbers by the seed alone, whatever other threads draw; untouched where none are drawn."""
    if sampling.temperature == 0:
        yield
        return
    with _RNG_LOCK, torch.random.fork_rng():
        torch.manual_seed(sampling.seed)
        yield


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[: min((ids.index(end) for end in ends if end in ids), default=len(ids))]
