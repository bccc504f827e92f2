"""Where the virtual tokens begin: from text, labels, the vocabulary, another prompt, or chance. Knows no training."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from foreword.backbone import Backbone
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt

STARTS = ("text", "labels", "vocabulary", "random", "prompt")


def soften(prompt: Prompt, tokens: int, name: str) -> Prompt:
    """`prompt` with `tokens` virtual tokens in front; one that has places for them already keeps those.

    In a chat prompt they open the first turn.
    """
    if prompt.virtual_tokens:
        return prompt.replace(name=name, soft=None)
    turn = re.match(r"(?:\s|\{#.*?#\})*\{\{[-+]?\s*(?:system|user)\s*\(\s*\)\s*[-+]?\}\}", prompt.body, re.DOTALL)
    at = turn.end() if turn else 0
    body = f"{prompt.body[:at]}{{{{ virtual({tokens}) }}}}{prompt.body[at:]}"
    return prompt.replace(name=name, body=body, soft=None)


def start_vectors(
    backbone: Backbone, prompt: Prompt, start: str, source: Prompt, text: str | None, seed: int
) -> Tensor:
    """Vectors [P, D] fp32 for the P virtual tokens of `prompt`.

    `start`: `text` takes the embeddings of `text`, or of the fixed words of `source`, tiled or cut to P (Lester 2021,
    section 3.2); `labels` those of the choices; `vocabulary` those of P random tokens; `random` draws them with the
    mean and spread of the vocabulary's; `prompt` takes the vectors of `source`.
    """
    P = prompt.virtual_tokens
    generator = torch.Generator().manual_seed(seed)
    vocabulary = len(backbone.tokenizer)

    def random_tokens() -> Tensor:
        """Sampled vocabulary, special tokens left out: few texts hold them."""
        special = set(backbone.tokenizer.all_special_ids)
        ordinary = torch.tensor([i for i in range(vocabulary) if i not in special])
        return _embed(backbone, ordinary[torch.randperm(len(ordinary), generator=generator)[:P]])

    def random() -> Tensor:
        table = _embed(backbone, torch.arange(vocabulary))
        drawn = torch.randn(P, table.shape[1], generator=generator)
        return table.mean(0) + drawn * table.std(0)

    def labels() -> Tensor:
        if prompt.output.choices is None:
            raise UsageError("the start 'labels' needs a task with choices; use 'text'")
        return _of_text(backbone, " ".join(prompt.output.choices), P)

    def vectors() -> Tensor:
        if source.soft is None or source.soft.embeddings.shape != (P, backbone.dimension):
            raise UsageError(f"the start 'prompt' needs a soft prompt with {P} tokens; {source.name!r} is not one")
        backbone.check(source)
        return torch.from_numpy(source.soft.embeddings).clone()

    ways: dict[str, Callable[[], Tensor]] = {
        "text": lambda: _of_text(backbone, text or fixed_words(source), P),
        "labels": labels,
        "vocabulary": random_tokens,
        "random": random,
        "prompt": vectors,
    }
    if start not in ways:
        raise UsageError(f"start {start!r}: choose one of {', '.join(STARTS)}")
    return ways[start]()


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
        return backbone.embed(ids.to(backbone.device), None).float().cpu()
