"""What vLLM reads of a prepared row: token ids, and vectors where they stand for none. Knows nothing of how it runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from vllm.inputs import embeds_input, tokens_input

from foreword.backbone import Backbone
from foreword.backbone.encode import text_places
from foreword.serve.engines.prepare import Prepared

PLACEHOLDER = 0
"""The token that a learned vector is announced by; it is never looked at."""


def inputs(backbone: Backbone, prepared: Prepared, after: Sequence[int] = ()) -> Any:
    """The row, `after` it the first tokens of an answer.

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
        rows = backbone.embed_row(ids, vectors, asked=len(prepared.ids))
    rows[torch.from_numpy(~learned)] = 0  # vLLM looks these up itself
    tokens[learned] = PLACEHOLDER
    return embeds_input(rows, prompt_token_ids=tokens.tolist(), is_token_ids=(~learned).tolist(), **salt)
