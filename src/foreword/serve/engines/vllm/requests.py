"""What vLLM is asked and what it tells: ids and vectors, settings, log-probabilities, figures. Knows no engine."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.inputs import embeds_input, tokens_input
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.metrics.loggers import StatLoggerBase

from foreword.backbone import Backbone, json_grammar, text_places
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.seam import Request

PLACEHOLDER = 0
"""The token that a learned vector is announced by; it is never looked at."""


def row_input(backbone: Backbone, prepared: Prepared, after: Sequence[int] = ()) -> Any:
    """What vLLM reads for a prepared row and `after` it the first tokens of an answer.

    Blocks of its keys and values are shared by what they hold and, for a soft prompt, with its own requests alone:
    vLLM tells learned keys and values by nothing else.
    """
    vectors, soft = prepared.vectors, prepared.request.prompt.soft
    ids = np.concatenate([prepared.ids, np.array(after, dtype=np.int64)])
    learned = ids < 0
    tokens = np.where(learned, PLACEHOLDER, ids)
    salt = {} if soft is None else {"cache_salt": soft.digest}
    asked = np.arange(len(ids)) < len(prepared.ids)
    learned |= (text_places(ids, 0, vectors.length) >= 0) & asked
    if vectors.prefix or not learned.any():
        return tokens_input(tokens.tolist(), **salt)
    with torch.no_grad():
        rows = backbone.embedder.embed_row(ids, vectors, asked=len(prepared.ids))
    rows[torch.from_numpy(~learned)] = 0  # vLLM looks these up itself
    tokens[learned] = PLACEHOLDER
    return embeds_input(rows, prompt_token_ids=tokens.tolist(), is_token_ids=(~learned).tolist(), **salt)


def sampling_params(request: Request, limit: int, ends: Sequence[int]) -> SamplingParams:
    """Settings for an answer of at most `limit` tokens, which `ends` end: the model's own settings are not asked."""
    wanted, schema = request.sampling, request.schema
    return SamplingParams(
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        seed=wanted.seed if wanted.temperature > 0 else None,
        max_tokens=limit,
        logprobs=request.logprobs or None,
        ignore_eos=True,
        stop_token_ids=list(ends),
        structured_outputs=None if schema is None else StructuredOutputsParams(grammar=json_grammar(schema)),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def scoring_params(token: int) -> SamplingParams:
    """Settings for the log-probability of one token: nothing else may be chosen, and the model tells its own opinion.

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


def token_logprobs(
    logprobs: Any, token: int, most: int, tokenizer: Any
) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """The log-probability of a token and those of the `most` likely ones, likeliest first; or nothing."""
    if logprobs is None:
        return None, ()
    ranked = sorted(logprobs.items(), key=lambda item: item[1].rank)[:most]
    return logprobs[token].logprob, tuple((tokenizer.decode([i]), one.logprob) for i, one in ranked)


TokenQuery = tuple[tuple[int, ...], int]
"""The tokens of an answer that stand before, and the one that is asked about."""


def token_queries(answers: Iterable[Sequence[int]]) -> list[TokenQuery]:
    """All tokens whose log-probabilities score the answers; what answers begin with alike is asked once."""
    return list(dict.fromkeys((tuple(answer[:i]), answer[i]) for answer in answers for i in range(len(answer))))


def log_likelihoods(answers: Iterable[Sequence[int]], logprobs: dict[TokenQuery, float]) -> list[float]:
    """The log-likelihood of each answer, in nats."""
    return [sum(logprobs[tuple(answer[:i]), answer[i]] for i in range(len(answer))) for answer in answers]


class Figures(StatLoggerBase):  # type: ignore[misc]
    """What vLLM tells of its last step, and sums over all of its steps."""

    def __init__(self) -> None:
        self.waiting = 0
        """Requests without a place in the batch."""
        self.usage = 0.0
        """Share of the blocks that are in use, 0 to 1."""
        self.steps = self.step_rows = self.last_rows = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        """Take what vLLM tells of a step that is over."""
        if scheduler_stats is not None:
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.usage = scheduler_stats.kv_cache_usage
        if iteration_stats is not None and iteration_stats.num_generation_tokens:
            self.steps += 1
            self.step_rows += iteration_stats.num_generation_tokens
            self.last_rows = iteration_stats.num_generation_tokens

    def log_engine_initialized(self) -> None:
        """Nothing to tell."""
