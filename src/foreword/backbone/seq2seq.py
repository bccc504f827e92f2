"""Encoder-decoder models: T5, mT5, BART and their like. Knows ids and tensors, no prompts' text.

The prompt, virtual tokens included, is the encoder's input; an answer is the decoder's whole output. An encoder looks
both ways, so nothing of a prompt can be computed before its row is known: the shared prefix is simply put before every
question. What is shared is the encoder's output, among all answers to a question.

Keys and values that are learned stand in the decoder's self-attention, in every layer, and nowhere else (Li and Liang
2021 put some into the encoder too; PEFT makes as many for cross-attention, and drops them before they are used). The
decoder counts them as tokens that it has written before: its own tokens keep their places among themselves, and
T5's relative position bias sees prefix row p as the token P - p places before the first one; where positions are
learned, as in BART, the first token is at position P.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from foreword.backbone import probe
from foreword.backbone.batch import Part, answer_log_probs
from foreword.backbone.input_embedder import InputEmbedder
from foreword.errors import ForewordError

TOKENS = 4_096
"""Tokens that go through the encoder, or lie before the decoder, at once."""

LOGITS = 50_000_000
"""Numbers that the head makes at once: vocabularies of this family are as large as 250,000."""


class EncoderDecoder:
    """An `Architecture`: the answer is a sequence of its own."""

    answers_apart = True
    packs = False

    def __init__(self, embedder: InputEmbedder) -> None:
        self.embedder, self.model = embedder, embedder.model
        self.start = self._start()
        self._check_numbers()
        cache = DynamicCache()
        with torch.no_grad():
            self.fill(cache, embedder.embed(torch.tensor([self.start], device=embedder.device))[None])
        _, H, _, size = cache.layers[0].keys.shape
        self.cache_shape = len(cache.layers), H, size

    def span(self, read: int, write: int, prefix: int = 0) -> int:
        """Encoder and decoder have a sequence each; a prefix stands in the decoder's."""
        return max(read - prefix, prefix + write)

    def fill(self, cache: DynamicCache, embedded: Tensor) -> None:
        """Read embeddings [1, T, D] into the decoder's self-attention, while the encoder has read the same."""
        self.model(inputs_embeds=embedded, decoder_inputs_embeds=embedded, use_cache=True, **self._behind(cache))

    def generate(self, rows: Sequence[Tensor], cache: DynamicCache | None, **options: Any) -> Tensor:
        """New ids [B, t] for rows of embeddings [T, D]. Padded on the right: encoders count positions from the left."""
        embedded, mask = _pad(rows)
        if cache is None:
            cache = DynamicCache()  # generate's own has as many layers as T5's encoder, and the decoder may have more
        options |= {"num_beams": 1, **self._behind(cache)}
        start = torch.full((len(rows), 1), self.start, device=embedded.device)
        new: Tensor = self.model.generate(
            inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=start, **options
        )
        return new[:, 1:]

    def checkpoint_activations(self) -> bool:
        """Not yet."""
        return False

    def log_probs(self, parts: Sequence[Part]) -> Tensor:
        """[A] in order of part, example, answer, token; fp32 or better."""
        return torch.cat([piece for part in parts for piece in self._of_part(part)])

    def _of_part(self, part: Part) -> list[Tensor]:
        """Questions in pieces through the encoder, the answers to each piece in slices through the decoder."""
        P, log_probs = part.vectors.prefix, []
        longest = max(len(part.shared_prefix) + len(example.question) for example in part.examples)
        size = max(1, TOKENS // longest)
        for i in range(0, len(part.examples), size):
            examples = part.examples[i : i + size]
            rows = [np.concatenate([part.shared_prefix, example.question])[P:] for example in examples]
            embedded, mask = _pad([self.embedder.embed_row(row, part.vectors) for row in rows])
            states = self.model.get_encoder()(inputs_embeds=embedded, attention_mask=mask)[0]  # [B, T, D]
            answers = [(b, answer) for b, example in enumerate(examples) for answer in example.answers]
            width = max(len(answer) for _, answer in answers)
            vocabulary = self.model.get_input_embeddings().weight.shape[0]
            step = max(1, min(TOKENS // (states.shape[1] + width), LOGITS // (width * vocabulary)))
            log_probs += [self._decode(part, states, mask, answers[j : j + step]) for j in range(0, len(answers), step)]
        return log_probs

    def _decode(
        self, part: Part, states: Tensor, mask: Tensor, answers: Sequence[tuple[int, tuple[int, ...]]]
    ) -> Tensor:
        """Log-probabilities of answers, each with the row of `states` [B, T, D] that it answers."""
        ids = [torch.tensor([self.start, *answer[:-1]]) for _, answer in answers]
        which = torch.tensor([b for b, _ in answers], device=states.device)
        behind = {"use_cache": False}
        if part.cache:
            behind = {"use_cache": True, **self._behind(self.embedder.new_cache(part.cache, len(answers)))}
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states[which]),
            attention_mask=mask[which],
            decoder_input_ids=pad_sequence(ids, batch_first=True).to(states.device),  # causal: none sees the padding
            **behind,
        ).logits  # [R, n, V]
        return answer_log_probs(logits, [0] * len(answers), [answer for _, answer in answers])

    def _behind(self, cache: DynamicCache) -> dict[str, Any]:
        """The decoder behind `cache` in its self-attention, and nothing in its cross-attention yet."""
        return {self.embedder.takes_cache: EncoderDecoderCache(cache, DynamicCache())}

    def _start(self) -> int:
        start = getattr(self.model.generation_config, "decoder_start_token_id", None)
        if not isinstance(start, int):
            raise ForewordError(
                f"{self.embedder.name!r} does not say what its answers start from: give its generation_config.json a "
                "decoder_start_token_id"
            )
        return start

    def _check_numbers(self) -> None:
        """Refuse a family whose padded rows do not have the log-probabilities of plain ones."""
        plain = probe.plain_log_probs(self._plain_logits)
        if not probe.agrees(lambda: self.log_probs([probe.PART]), plain, self.embedder.dtype):
            raise ForewordError(
                f"{self.embedder.name!r} is of the family {self.model.config.model_type!r}, which reads a row "
                "otherwise when it is padded; Foreword cannot run it: choose a model of the T5 or BART family"
            )

    def _plain_logits(self, question: list[int], answer: tuple[int, ...]) -> Tensor:
        """[n, V] that predict the answer's tokens, as transformers computes them for one row."""
        read, before = (
            torch.tensor(ids, device=self.embedder.device) for ids in (question, [self.start, *answer[:-1]])
        )
        logits: Tensor = self.model(input_ids=read[None], decoder_input_ids=before[None], use_cache=False).logits[0]
        return logits


def _pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows [T, D] padded on the right [B, T, D], and which tokens are theirs [B, T]."""
    ones = [torch.ones(len(row), dtype=torch.int64, device=row.device) for row in rows]
    return pad_sequence(list(rows), batch_first=True), pad_sequence(ones, batch_first=True)
