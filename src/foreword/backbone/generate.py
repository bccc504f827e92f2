"""Text behind token ids, through transformers' own `generate`. Knows ids and vectors; knows no prompts."""

from collections.abc import Sequence
from typing import Any

import torch

from foreword.backbone.answer import Sampling
from foreword.backbone.encode import Ids
from foreword.backbone.model import FrozenModel
from foreword.backbone.vectors import Vectors


def ends_of(model: FrozenModel) -> list[int]:
    """The tokens that end a text, by the model's settings or the tokenizer's."""
    ends = model.model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    end = model.tokenizer.eos_token_id
    return ends if end is None or end in ends else [*ends, end]


def generate_ids(model: FrozenModel, prompts: Sequence[Ids], vectors: Vectors, sampling: Sampling) -> list[list[int]]:
    """New token ids for each prompt [T], end-of-text and padding taken off."""
    learned = model.learned(prompts[0], vectors)
    rows = [model.embed_row(ids[vectors.prefix :], vectors) for ids in prompts]
    ends = ends_of(model)
    # A model's own generation settings give way: what is asked for here is all that changes its probabilities.
    plain: dict[str, Any] = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "num_beams": 1}
    options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if sampling.temperature > 0:
        options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    if sampling.stop:
        options |= {"stop_strings": list(sampling.stop), "tokenizer": model.tokenizer}
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(sampling.seed)
        new = model.architecture.generate(
            rows,
            model.new_cache(learned, len(rows)) if learned else None,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **plain,
            **options,
        )
    return [_until(row, ends) for row in new.tolist()]


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[: min((ids.index(end) for end in ends if end in ids), default=len(ids))]
