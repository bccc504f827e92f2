"""Where soft prompts begin."""

import numpy as np
import pytest
import torch

from foreword.errors import UsageError
from foreword.prompts import Output, Prompt, SoftTokens
from foreword.tuning.setup import insert_virtual_tokens
from foreword.tuning.start import fixed_words, start_vectors
from tiny import backbone

HARD = Prompt(
    "hard", "Is it good?\n{% if text %}Review: {{ text }}{% endif %}\nSentiment:", None, Output(choices=("yes", "no"))
)


def vectors(start: str, tokens: int = 12, source: Prompt = HARD, text: str | None = None) -> torch.Tensor:
    model = backbone()
    return start_vectors(model, insert_virtual_tokens(HARD, tokens, "soft"), start, source, text, seed=3)


def table(text: str) -> torch.Tensor:
    model = backbone()
    return model.model.get_input_embeddings().weight[model.tokenizer.encode(text)]


def test_text_is_the_prompts_own_fixed_words_tiled_or_cut() -> None:
    assert fixed_words(HARD) == "Is it good? Review: Sentiment:"
    words = table("Is it good? Review: Sentiment:")
    assert torch.equal(vectors("text", 5), words[:5])
    assert torch.equal(vectors("text", len(words) + 3), torch.cat([words, words[:3]]))
    assert torch.equal(vectors("text", 2, text="a film"), table("a film")[:2])
    assert torch.equal(vectors("labels", 3), torch.cat([table("yes no")] * 3)[:3])


def test_vocabulary_and_random_look_like_the_vocabulary() -> None:
    rows = backbone().model.get_input_embeddings().weight
    sampled = vectors("vocabulary")
    assert all((rows == vector).all(1).any() for vector in sampled)
    assert len(sampled.unique(dim=0)) == len(sampled)
    drawn = vectors("random", 400)
    assert torch.allclose(drawn.std(0), rows.std(0), rtol=0.3)
    assert torch.equal(vectors("random"), vectors("random"))


def test_a_prompt_hands_its_vectors_on() -> None:
    model = backbone()
    own = np.ones((4, model.dimension), np.float32)
    source = insert_virtual_tokens(HARD, 4, "s").replace(
        soft=SoftTokens({"embeddings": own}, "b", model.fingerprint, "m", "r", 1)
    )
    assert np.array_equal(vectors("prompt", 4, source), own)
    with pytest.raises(UsageError, match="needs a soft prompt with 5 tokens"):
        vectors("prompt", 5, source)


def test_virtual_tokens_go_in_front_unless_they_have_places() -> None:
    assert insert_virtual_tokens(HARD, 3, "s").body.startswith("{{ virtual(3) }}Is it")
    chat = Prompt("c", "{{ system() }}Judge.{{ user() }}{{ text }}")
    assert insert_virtual_tokens(chat, 3, "s").body == "{{ system() }}{{ virtual(3) }}Judge.{{ user() }}{{ text }}"
    placed = Prompt("c", "{{ text }}{{ virtual(2) }}{{ virtual(1) }}")
    assert insert_virtual_tokens(placed, 9, "s").body == placed.body
