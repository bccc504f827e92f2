"""A local backbone that answers prompts: encodes them, computes shared prefixes once, scores choices, writes text."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from foreword.backbone.answer import TEXT_TOKENS, Answer, Inputs, OnRows, Sampling
from foreword.backbone.architecture import Architecture
from foreword.backbone.batch import Example, PrefixCache, batches
from foreword.backbone.decoder_only import Layerless
from foreword.backbone.encode import Encoded, Ids, encode, encode_answer, shared_prefix_length, spans
from foreword.backbone.generate import end_tokens, generate_ids
from foreword.backbone.input_embedder import InputEmbedder
from foreword.backbone.load import load_model
from foreword.backbone.model import FrozenModel
from foreword.backbone.structured import Grammars
from foreword.backbone.vectors import NO_VECTORS, Vectors
from foreword.errors import ForewordError, UsageError
from foreword.listen import SILENT, Listener
from foreword.prompts import Cut, Prompt, fit_budgets

BATCH_TOKENS = 1_024
"""Tokens in a scoring batch: enough to fill the machine's matrix units, little enough to stay in its caches."""

PREFIX_CACHE_BYTES = 512 * 1024**2
"""Of shared prefixes that are kept computed; a hundred tokens of the default backbone take 5 MB in fp32."""


@dataclass(frozen=True)
class Scores:
    """How likely each choice is for each row."""

    log_likelihoods: np.ndarray
    """[B, K] float64, nats, summed over the answer's tokens."""
    tokens: np.ndarray
    """[B, K] tokens in each answer."""
    prompt_tokens: np.ndarray
    """[B] tokens of each prompt, the shared prefix counted."""
    cuts: tuple[tuple[Cut, ...], ...] = ()
    """Per row, what was left out of its inputs."""
    cached_tokens: int = 0
    """Tokens at the beginning of every prompt that were computed once for all rows."""

    def choose(self, log_prior: Sequence[float] | None = None) -> list[int]:
        """Per row, the index of the best choice, the label bias `log_prior` taken off."""
        return [int(k) for k in self._calibrated(log_prior).argmax(1)]

    def probabilities(self, log_prior: Sequence[float] | None = None) -> np.ndarray:
        """[B, K] of each choice among the others, the label bias `log_prior` taken off."""
        calibrated = self._calibrated(log_prior)
        shares: np.ndarray = np.exp(calibrated - np.logaddexp.reduce(calibrated, axis=1, keepdims=True))
        return shares

    def _calibrated(self, log_prior: Sequence[float] | None) -> np.ndarray:
        calibrated: np.ndarray = self.comparable - np.array(log_prior if log_prior is not None else 0.0)
        return calibrated

    @property
    def comparable(self) -> np.ndarray:
        """[B, K] log-likelihoods, per token where the choices differ in length."""
        even = (self.tokens == self.tokens[:, :1]).all(1, keepdims=True)
        return np.where(even, self.log_likelihoods, self.log_likelihoods / self.tokens)


class Backbone(FrozenModel):
    """A frozen model with its tokenizer, for prompts of every kind."""

    parallel = 1
    """One batch keeps the machine busy: what comes at the same time is best put into it."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        architecture: Callable[[InputEmbedder], Architecture] | None = None,
    ) -> None:
        super().__init__(model, tokenizer, name, architecture)
        self._prefix_caches: OrderedDict[tuple[str, bytes], PrefixCache] = OrderedDict()
        self._lock = threading.Lock()
        self._answer_ids = lru_cache(4_096)(
            lambda answer, tail, ended: encode_answer(answer, tail, tokenizer, ended=ended)
        )

    @classmethod
    def load(cls, name: str, dtype: str = "auto", listener: Listener = SILENT, *, layers: bool = True) -> "Backbone":
        """Load by built-in name, folder, `.gguf` file or hub id; `dtype` is `auto`, `float32` or `bfloat16`.

        Without `layers` it holds the embedding matrix alone, on the CPU: it encodes prompts and checks them, and cannot
        run them. That is for whoever has the layers in another process. Raises ForewordError when `name` leads nowhere
        or to something else.
        """
        loaded = load_model(name, dtype, listener, layers=layers)
        return cls(loaded.model, loaded.tokenizer, loaded.name, None if loaded.layers else Layerless)

    def check(self, prompt: Prompt) -> None:
        """Refuse a prompt that cannot run here: without vectors, or with vectors of another backbone."""
        if prompt.soft is None:
            if prompt.virtual_tokens:
                raise ForewordError(f"prompt {prompt.name!r} has virtual tokens but no vectors yet; tune it first")
            return
        if prompt.soft.fingerprint != self.fingerprint or not prompt.soft.fits(self.dimension, self.cache_shape):
            raise ForewordError(
                f"prompt {prompt.name!r} was tuned on {prompt.soft.backbone!r} "
                f"({prompt.soft.fingerprint[:12]}), this is {self.name!r} ({self.fingerprint[:12]}): vectors mean "
                "nothing to another model. Load the backbone it was tuned on, or tune it here"
            )

    def vectors(self, prompt: Prompt) -> Vectors:
        """The prompt's learned part, fp32, on this device; nothing for a hard prompt."""
        if prompt.soft is None:
            return NO_VECTORS
        return Vectors(**{name: torch.from_numpy(array).to(self.device) for name, array in prompt.soft.tensors.items()})

    def encode(self, prompt: Prompt, inputs: Mapping[str, object]) -> Encoded:
        """The exact tokens of a row, inputs cut to their budgets; refuses one longer than the model's context."""
        row, cuts = fit_budgets(prompt, prompt.fill(inputs), self._spans)
        pieces = prompt.place(row, self._length)  # what was cut need not be as declared any more
        data = prompt.data(row)
        encoded = encode(pieces, self.tokenizer, data, prompt.written, apart=self.architecture.answers_apart)
        if self.architecture.span(len(encoded.ids), 1) > self.context:
            raise ForewordError(
                f"the row {dict(inputs)!r:.100} has {len(encoded.ids):,} tokens; {self.name!r} reads "
                f"{self.context:,} at most: shorten it"
            )
        if encoded.ids.max(initial=0) >= self.embeddings:  # a GPU would not live through it
            raise ForewordError(
                f"the row {dict(inputs)!r:.100} has the token {int(encoded.ids.max())}, which {self.name!r} has no "
                f"embedding for ({self.embeddings:,} are there): its tokenizer is another model's"
            )
        return replace(encoded, cuts=cuts)

    def _spans(self, text: str) -> list[tuple[int, int]]:
        return spans(text, self.tokenizer)

    def _length(self, text: str) -> int:
        return len(self._spans(text))

    def example(self, prompt: Prompt, inputs: Inputs, answers: Sequence[str], *, ended: bool = False) -> Example:
        """A row with its candidate answers, no shared prefix taken off yet; `ended` answers tell where they end."""
        return self._example(self.encode(prompt, inputs), answers, ended=ended)

    def _example(self, encoded: Encoded, answers: Sequence[str], *, ended: bool = False) -> Example:
        return Example(encoded.ids, tuple(self._answer_ids(answer, encoded.tail, ended) for answer in answers))

    def prefix_cache(self, prompt: Prompt, rows: Sequence[Ids]) -> PrefixCache:
        """The computed prefix that `rows` share; kept for the next calls with the same prompt.

        One row alone is compared with another that no input has in common with it.
        """
        others = rows[1:] if len(rows) > 1 else self.other_row(prompt)
        vectors = self.vectors(prompt)
        if min(map(len, rows)) <= vectors.prefix:
            raise ForewordError(
                f"prompt {prompt.name!r} renders to nothing behind its prefix; give its template some text"
            )
        shared = shared_prefix_length([rows[0], *others]) if others else 0
        ids = rows[0][: max(shared, vectors.prefix)]
        key = (prompt.digest, ids.tobytes())
        with self._lock:
            cache = self._prefix_caches.pop(key, None)
        if cache is None:
            cache = self.prefill(ids, vectors)
        with self._lock:
            self._prefix_caches[key] = cache  # the newest stands last
            kept = self._prefix_caches.values()
            while len(kept) > 1 and sum(one.nbytes for one in kept) > PREFIX_CACHE_BYTES:
                self._prefix_caches.popitem(last=False)
        return cache

    def clear_prefix_cache(self) -> None:
        """Drop all computed prefixes: for whoever has changed the weights of `model`, or needs their memory."""
        with self._lock:
            self._prefix_caches.clear()

    def other_row(self, prompt: Prompt) -> list[Ids]:
        """One row that differs from any other in every input, or none where the template cannot take it."""
        probe = {"string": "\u2043", "integer": 7, "number": 7.0, "boolean": True, "array": [], "object": {}}
        row = {n: probe[prompt.specs[n].type if n in prompt.specs else "string"] for n in prompt.variables}
        try:
            return [encode(prompt.place(row, self._length), self.tokenizer, prompt.data(row), prompt.written).ids]
        except ForewordError:
            return []

    def score(self, prompt: Prompt, rows: Sequence[Inputs], on_rows: OnRows | None = None) -> Scores:
        """Log-likelihood of every choice for every row; the shared prefix, and each question, are computed once."""
        self.check(prompt)
        choices = prompt.output.choices
        if not rows:
            raise UsageError(f"no rows to score for prompt {prompt.name!r}; give at least one")
        if choices is None:
            raise ForewordError(f"prompt {prompt.name!r} has no choices to score; add 'output: {{choices: […]}}'")
        encoded = [self.encode(prompt, row) for row in rows]
        whole = [self._example(row, choices) for row in encoded]
        cache = self.prefix_cache(prompt, [example.question for example in whole])
        F = len(cache.ids)
        examples = [Example(example.question[F:], example.answers) for example in whole]
        log_likelihoods = np.zeros((len(rows), len(choices)))
        vectors, done = self.vectors(prompt), 0
        with torch.no_grad():
            for batch in batches(examples, BATCH_TOKENS, F):
                part = [examples[i] for i in batch]
                flat = self.log_probs(part, cache, vectors).double().cpu().numpy()
                starts = np.cumsum([0, *(len(answer) for example in part for answer in example.answers)])[:-1]
                log_likelihoods[batch] = np.add.reduceat(flat, starts).reshape(len(batch), len(choices))
                done += len(batch)
                if on_rows:
                    on_rows(done, len(rows))
        tokens = np.array([[len(answer) for answer in example.answers] for example in whole])
        lengths = np.array([len(example.question) for example in whole])
        cuts = tuple(row.cuts for row in encoded)
        return Scores(log_likelihoods, tokens, lengths, cuts, cached_tokens=F if self.packs else 0)

    def answer(
        self,
        prompt: Prompt,
        rows: Sequence[Inputs],
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        on_rows: OnRows | None = None,
    ) -> list[Answer]:
        """One answer per row: the best choice where the prompt has choices, else generated text.

        With a schema, decoding is constrained to it: the text is valid JSON unless `max_tokens` ended it too early.
        """
        if not rows:
            return []
        choices = prompt.output.choices
        if choices is None:
            return self._write(prompt, rows, sampling, on_rows)
        scores = self.score(prompt, rows, on_rows)
        prior = prompt.output.log_prior
        chosen = [choices[k] for k in scores.choose(prior)]
        likely, shares = scores.log_likelihoods.tolist(), scores.probabilities(prior).tolist()
        return [
            Answer(
                text,
                text,
                log_likelihoods=tuple(likely[i]),
                prompt_tokens=int(scores.prompt_tokens[i]),
                answer_tokens=0,
                probabilities=tuple(shares[i]),
                cuts=scores.cuts[i],
                cached_tokens=scores.cached_tokens,
                scored_tokens=int(scores.tokens[i].sum()),
            )
            for i, text in enumerate(chosen)
        ]

    def generate(self, prompt: Prompt, sampling: Sampling = Sampling(), /, **inputs: str) -> str:  # noqa: B008 - frozen
        """The answer to one row, as text."""
        return self.answer(prompt, [inputs], sampling)[0].text

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer, end_tokens(self), self.name)

    def _write(
        self, prompt: Prompt, rows: Sequence[Inputs], sampling: Sampling, on_rows: OnRows | None
    ) -> list[Answer]:
        self.check(prompt)
        encoded, vectors = [self.encode(prompt, row) for row in rows], self.vectors(prompt)
        longest, limit, schema = max(len(e.ids) for e in encoded), sampling.limit(prompt), prompt.output.json_schema
        while sampling.max_tokens is None and limit > TEXT_TOKENS and self._overflows(longest, limit, vectors):
            limit //= 2  # nobody asked for 512: it is only what is ample
        if self._overflows(longest, limit, vectors):
            raise ForewordError(
                f"a prompt of {longest:,} tokens and {limit:,} to write are more than the "
                f"{self.context:,} that {self.name!r} can hold: ask for fewer (max_tokens) or shorten the input"
            )
        answers = {}
        for batch in batches([Example(e.ids, ((0,),)) for e in encoded], BATCH_TOKENS):
            constraint = None if schema is None else self._grammars.constraint(schema, len(batch))
            written = generate_ids(self, [encoded[i].ids for i in batch], vectors, sampling, limit, constraint)
            for row, (i, ids) in enumerate(zip(batch, written, strict=True)):
                if constraint is not None:
                    text, value, problem, length = constraint.answer(row)
                else:
                    text = _cut(self.tokenizer.decode(ids, skip_special_tokens=True), sampling.stop).strip()
                    value, problem, length = text, None, len(ids)
                answers[i] = Answer(
                    text, value, None, len(encoded[i].ids), length, problem=problem, cuts=encoded[i].cuts
                )
            if on_rows:
                on_rows(len(answers), len(rows))
        return [answers[i] for i in range(len(rows))]

    def _overflows(self, read: int, write: int, vectors: Vectors) -> bool:
        return self.architecture.span(read, write, vectors.prefix) > self.context


def _cut(text: str, stop: Sequence[str]) -> str:
    """`text` before the first stop string."""
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]
