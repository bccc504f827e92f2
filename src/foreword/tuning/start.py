"""Where a soft prompt begins: from text, labels, rows, the vocabulary, another prompt, or chance. Knows no training."""

import random
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from foreword.backbone import Backbone, Vectors
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt, Text
from foreword.tasks import Row
from foreword.tuning.methods import METHODS, Start
from foreword.tuning.options import STARTS, TuneOptions
from foreword.tuning.setup import TaskSetup


def begin(backbone: Backbone, setup: TaskSetup, options: TuneOptions) -> Start:
    """Where the encoder of a task's prompt begins, by `options.init`. Keys and values begin at those of the tokens."""
    prompt, source, rows, longest = setup.prompt, setup.start, setup.task.train, setup.rows.longest
    learns = METHODS[options.method].learns
    zero = options.init == "zero"
    if zero and learns != "prefix":
        raise UsageError("the start 'zero' is for prefix tuning; virtual tokens cannot begin at zero: use 'text'")
    if options.init == "prompt" and source.soft is not None and "keys" in source.soft.tensors:
        if learns != "prefix":
            raise UsageError(f"{source.name!r} holds keys and values; only prefix tuning can begin from them")
        backbone.check(source)
        tokens = start_vectors(backbone, prompt, "text", source, options.init_text, options.seed, rows)
        keys, values = (torch.from_numpy(source.soft.tensors[name]) for name in ("keys", "values"))
        return Start(tokens, (keys, values), longest)
    init = "text" if zero else options.init or "text"
    tokens = start_vectors(backbone, prompt, init, source, options.init_text, options.seed, rows)
    if learns != "prefix":
        return Start(tokens, None, longest)
    ids = np.arange(-1, -1 - len(tokens), -1)
    layers = backbone.keys_and_values(ids, Vectors(embeddings=tokens.to(backbone.device)))
    keys, values = (torch.stack([layer[kind] for layer in layers]).float().cpu() for kind in (0, 1))
    return Start(tokens, (keys * (not zero), values * (not zero)), longest)


def start_vectors(
    backbone: Backbone, prompt: Prompt, start: str, source: Prompt, text: str | None, seed: int,
    rows: Sequence[Row] = (),
) -> Tensor:  # fmt: skip
    """Vectors [P, D] fp32 for the P virtual tokens of `prompt`.

    `start`: `text` takes the embeddings of `text`, or of the fixed words of `source`, tiled or cut to P (Lester 2021,
    section 3.2); `labels` those of the choices; `demonstrations` those of solved training rows; `vocabulary` those of P
    random tokens; `random` draws them with the mean and spread of the vocabulary's; `prompt` takes the vectors of
    `source`.
    """
    P = prompt.virtual_tokens
    generator = torch.Generator().manual_seed(seed)
    vocabulary = backbone.vocabulary

    def random_tokens() -> Tensor:
        """Sampled vocabulary, special tokens left out: few texts hold them."""
        special = set(backbone.tokenizer.all_special_ids)
        ordinary = torch.tensor([i for i in range(vocabulary) if i not in special])
        return _embed(backbone, ordinary[torch.randperm(len(ordinary), generator=generator)[:P]])

    def random_vectors() -> Tensor:
        table = _embed(backbone, torch.arange(vocabulary))
        drawn = torch.randn(P, table.shape[1], generator=generator)
        return table.mean(0) + drawn * table.std(0)

    def labels() -> Tensor:
        if prompt.output.choices is None:
            raise UsageError("the start 'labels' needs a task with choices; use 'text'")
        return _of_text(backbone, " ".join(prompt.output.choices), P)

    def demonstrations() -> Tensor:
        if not rows:
            raise UsageError("the start 'demonstrations' needs training rows; use 'text'")
        chosen = random.Random(seed).sample(list(rows), min(len(rows), P))
        return _of_text(backbone, "\n\n".join(_solved(source, row) for row in chosen), P)

    def vectors() -> Tensor:
        if source.soft is None or source.soft.tensors.get("embeddings", np.empty(0)).shape != (P, backbone.dimension):
            raise UsageError(f"the start 'prompt' needs a soft prompt with {P} tokens; {source.name!r} is not one")
        if "offsets" in source.soft.tensors:
            raise UsageError(f"{source.name!r} also moves the words, and no method begins from that; use 'text'")
        backbone.check(source)
        return torch.from_numpy(source.soft.embeddings).clone()

    ways: dict[str, Callable[[], Tensor]] = {
        "text": lambda: _of_text(backbone, text or fixed_words(source), P),
        "labels": labels,
        "demonstrations": demonstrations,
        "vocabulary": random_tokens,
        "random": random_vectors,
        "prompt": vectors,
    }
    if start not in ways:
        raise UsageError(f"start {start!r}: choose one of {', '.join(STARTS)}")
    return ways[start]()


def _solved(prompt: Prompt, row: Row) -> str:
    """A row with its answer, as text."""
    pieces = prompt.replace(soft=None).render(prompt.take_texts(row.inputs, row.id))
    return " ".join(["".join(piece.text for piece in pieces if isinstance(piece, Text)).rstrip(" "), row.target])


def fixed_words(prompt: Prompt) -> str:
    """The words of a template that are the same in every row, in order."""
    words = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", " ", prompt.body, flags=re.DOTALL)
    return " ".join(words.split())


def _of_text(backbone: Backbone, text: str, count: int) -> Tensor:
    ids = backbone.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise ForewordError("there is no text to start from; give some with --init-text, or use --init vocabulary")
    return _embed(backbone, torch.tensor((ids * -(-count // len(ids)))[:count]))


def _embed(backbone: Backbone, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.embedder.embed(ids.to(backbone.device)).float().cpu()
