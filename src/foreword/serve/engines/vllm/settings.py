"""What vLLM is asked to write, and the log-probabilities that it tells. Knows requests; knows no engine."""

from collections.abc import Sequence
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from foreword.backbone.structured import grammar
from foreword.serve.engines.seam import Request


def writing(request: Request, limit: int, ends: Sequence[int]) -> SamplingParams:
    """For an answer of at most `limit` tokens, which `ends` end: the model's own settings are not asked."""
    wanted, schema = request.sampling, request.schema
    return SamplingParams(
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        seed=wanted.seed if wanted.temperature > 0 else None,
        max_tokens=limit,
        logprobs=request.logprobs or None,
        ignore_eos=True,
        stop_token_ids=list(ends),
        structured_outputs=None if schema is None else StructuredOutputsParams(grammar=grammar(schema)),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def scoring(token: int) -> SamplingParams:
    """For the log-probability of one token: nothing else may be chosen, and the model tells what it thinks of it.

    `logprob_token_ids` would ask for several at once, but takes the likeliest ones from other rows of a step.
    """
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        logprobs=0,
        allowed_token_ids=[token],
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def likely(found: Any, token: int, most: int, tokenizer: Any) -> tuple[float, tuple[tuple[str, float], ...]]:
    """The log-probability of a token, and those of the `most` likely ones, likeliest first."""
    ranked = sorted(found.items(), key=lambda item: item[1].rank)[:most]
    return found[token].logprob, tuple((tokenizer.decode([i]), one.logprob) for i, one in ranked)
