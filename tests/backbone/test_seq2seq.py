"""Encoder-decoder models: loss, gradient, scores and text, against one row at a time through the model's own calls."""

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import processors

from foreword.backbone import Backbone, Example, Sampling, Vectors, seq2seq
from foreword.backbone.encode import Ids, encode, encode_answer
from foreword.errors import ForewordError
from foreword.prompts import Output, Prompt, SoftTokens
from tiny import SEQ2SEQ, backbone, tokenizer

KINDS = ("embeddings", "offsets", "prefix")
CHOICES = Output(choices=("very good", "bad"))
ROWS = [{"text": text} for text in ("a quiet film", "silly", "what is this review ? very tedious and simplistic", "")]
P = 3


def rows(count: int = 6, seed: int = 0) -> list[Example]:
    """Rows of very different lengths, with one to three answers of one to four tokens."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 200) for _ in range(rng.randint(low, high)))

    return [
        Example(np.array([*tokens(0, 12), 7], dtype=np.int64), tuple(tokens(1, 4) for _ in range(rng.randint(1, 3))))
        for _ in range(count)
    ]


def learned(model: Backbone, kind: str, dtype: torch.dtype = torch.float64) -> Vectors:
    """Vectors of every kind, leaves of the graph."""
    torch.manual_seed(1)
    L, H, size = model.cache_shape
    shapes: dict[str, tuple[int, ...]] = {"embeddings": (P, model.dimension)}
    if kind == "prefix":
        shapes = {"keys": (L, H, P, size), "values": (L, H, P, size)}
    if kind == "offsets":
        shapes["offsets"] = (5, model.dimension)
    return Vectors(**{name: torch.randn(*shape, dtype=dtype, requires_grad=True) for name, shape in shapes.items()})


def embedded(model: Backbone, ids: Ids, vectors: Vectors) -> torch.Tensor:
    """The encoder's input, token by token."""
    found, texts = [], 0
    for i in ids.tolist():
        if i < 0:
            found.append(vectors.embeddings[-1 - i])
            continue
        found.append(model.model.get_input_embeddings()(torch.tensor(i)))
        if vectors.offsets is not None and texts < len(vectors.offsets):
            found[-1] = found[-1] + vectors.offsets[texts]
        texts += 1
    return torch.stack(found)


def naive(model: Backbone, examples: list[Example], shared_prefix: Ids, vectors: Vectors) -> torch.Tensor:
    """Every answer of every row alone, unpadded; the model itself makes the decoder's input of the labels."""
    found = []
    for example in examples:
        for answer in example.answers:
            ids = np.concatenate([shared_prefix, example.question])[vectors.prefix :]
            labels = torch.tensor([answer])
            more: dict[str, Any] = {"labels": labels}
            if vectors.prefix:
                cache = hf.DynamicCache()
                for layer in range(len(vectors.keys)):
                    cache.update(vectors.keys[layer][None], vectors.values[layer][None], layer)
                more = {"decoder_input_ids": model.model.prepare_decoder_input_ids_from_labels(labels)}
                more |= {
                    model.embedder.takes_cache: hf.EncoderDecoderCache(cache, hf.DynamicCache()),
                    "use_cache": True,
                }
            logits = model.model(inputs_embeds=embedded(model, ids, vectors)[None], **more).logits[0]
            found.append(torch.log_softmax(logits, -1)[range(len(answer)), answer])
    return torch.cat(found)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(params=SEQ2SEQ)
def model(request: pytest.FixtureRequest) -> Backbone:
    return backbone(request.param, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared_prefix", [[-1, -2, -3], [-1, -2, -3, 5, 6]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_one_answer_at_a_time(model: Backbone, kind: str, shared_prefix: list[int], dtype: torch.dtype) -> None:
    """And every number that is learned has a gradient, in every layer."""
    model.model.to(dtype)
    ids, results = np.array(shared_prefix, dtype=np.int64), []
    for function in (model.log_probs, lambda *a: naive(model, *a)):
        vectors = learned(model, kind, dtype)
        loss = -function(rows(), ids, vectors).mean()
        loss.backward()
        results.append((loss.detach(), [t.grad for t in vars(vectors).values() if t is not None]))
    (loss, gradients), (expected, expected_gradients) = results
    assert relative(loss, expected) < (1e-5 if dtype == torch.float32 else 1e-8)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert relative(gradient, other) < (1e-4 if dtype == torch.float32 else 1e-6)
        assert (gradient != 0).all()
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())


def test_virtual_tokens_may_stand_anywhere(model: Backbone) -> None:
    examples = [Example(np.array([9, -2, 7, -3]), ((20, 21),)), Example(np.array([-2, -3, 8]), ((22,), (23, 24, 25)))]
    shared_prefix, vectors = np.array([5, -1]), learned(model, "embeddings")
    found, expected = model.log_probs(examples, shared_prefix, vectors), naive(model, examples, shared_prefix, vectors)
    assert relative(found, expected) < 1e-8
    a, b = (torch.autograd.grad(x.mean(), vectors.embeddings)[0] for x in (found, expected))
    assert relative(a, b) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_order_padding_and_pieces_change_nothing(model: Backbone, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, examples, vectors = np.array([-1, -2, -3, 5]), rows(8), learned(model, kind)
    with torch.no_grad():
        alone = [model.log_probs([example], ids, vectors) for example in examples]
        order = random.Random(1).sample(range(8), 8)
        monkeypatch.setattr(seq2seq, "TOKENS", 40)
        small = model.log_probs([examples[i] for i in order], ids, vectors)
        monkeypatch.setattr(seq2seq, "TOKENS", 10**6)
        monkeypatch.setattr(seq2seq, "LOGITS", 1)
        narrow = model.log_probs([examples[i] for i in order], ids, vectors)
    expected = torch.cat([alone[i] for i in order])
    assert relative(small, expected) < 1e-8
    assert relative(narrow, expected) < 1e-8


def test_prompts_of_every_kind_share_a_batch(model: Backbone) -> None:
    kinds = {kind: learned(model, kind) for kind in KINDS}
    parts = [model.part(rows(2, i), np.array([-1, -2, -3, i + 5]), kinds[kind]) for i, kind in enumerate(KINDS)]
    parts.append(model.part(rows(3, 9), model.prefill(np.array([5, 6, 7]))))
    with torch.no_grad():
        alone = torch.cat([naive(model, list(part.examples), part.shared_prefix, part.vectors) for part in parts])
        assert relative(model.log_probs_mixed(parts), alone) < 1e-8


def test_a_question_is_read_once_for_all_its_answers(model: Backbone) -> None:
    read: list[int] = []
    encoder = model.model.get_encoder()
    hook = encoder.register_forward_hook(lambda _, __, output: read.append(len(output[0])))
    examples = [Example(np.array([5, 6, i]), tuple((j,) for j in range(20, 29))) for i in range(7, 11)]
    model.log_probs(examples, np.array([], dtype=np.int64))
    hook.remove()
    assert read == [4]


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_a_prefix_stands_where_written_tokens_would(family: str) -> None:
    """Keys and values of P tokens that the decoder itself has read, against the same tokens read in full, no cache.

    The relative position bias of T5 is thus that of P more tokens before the first: nothing else moves.
    """
    model = backbone(family, torch.float64)
    L, question, answer, written = model.cache_shape[0], torch.tensor([[5, 6, 7, 8]]), (20, 21, 22), [30, 31, 32]
    cache = hf.EncoderDecoderCache(hf.DynamicCache(), hf.DynamicCache())
    with torch.no_grad():
        first = {"input_ids": question, "decoder_input_ids": torch.tensor([written]), "use_cache": True}
        model.model(**first, **{model.embedder.takes_cache: cache})
        layers = cache.self_attention_cache.layers
        assert len(layers) == L
        vectors = Vectors(keys=torch.cat([x.keys for x in layers]), values=torch.cat([x.values for x in layers]))
        found = model.log_probs([Example(question[0].numpy(), (answer,))], np.array([-1, -2, -3]), vectors)
        start = model.model.config.decoder_start_token_id
        whole = torch.tensor([[*written, start, *answer[:-1]]])
        logits = model.model(input_ids=question, decoder_input_ids=whole, use_cache=False).logits[0, P:]
    assert relative(found, torch.log_softmax(logits, -1)[range(3), answer]) < 1e-8


def test_the_shape_of_a_prefix_is_that_of_the_decoder(model: Backbone) -> None:
    assert model.cache_shape == (3, 4, 8)
    layers = model.keys_and_values(np.array([5, 6]))
    assert [tuple(layer[0].shape) for layer in layers] == [(4, 2, 8)] * 3


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_loss_and_gradient_are_those_of_peft(family: str) -> None:
    """PEFT makes twice as many virtual tokens for such models and puts the first half before the encoder.

    The second half is used by none of its methods that learn virtual tokens, and has no gradient.
    """
    ours = backbone(family)
    with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
        warnings.simplefilter("ignore")
        from peft import PromptTuningConfig, get_peft_model

        config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P)
        theirs = get_peft_model(copy.deepcopy(ours.model), config)
    weight = theirs.prompt_encoder["default"].embedding.weight
    examples = [Example(example.question, example.answers[:1]) for example in rows()]
    width = max(len(example.question) for example in examples)
    ids = torch.tensor([[*e.question, *[1] * (width - len(e.question))] for e in examples])
    mask = torch.tensor([[1] * len(e.question) + [0] * (width - len(e.question)) for e in examples])
    labels = torch.tensor([[*e.answers[0], *[-100] * (4 - len(e.answers[0]))] for e in examples])
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected.backward()

    virtual = weight[:P].detach().clone().requires_grad_()
    loss = -ours.log_probs(examples, np.array([-1, -2, -3]), Vectors(virtual)).mean()
    loss.backward()
    assert len(weight) == 2 * P
    assert weight.grad[P:].abs().sum() == 0
    assert relative(loss.detach(), expected.detach()) < 1e-5
    assert relative(virtual.grad, weight.grad[:P]) < 1e-4


def soft(model: Backbone, kind: str, body: str = "{{ virtual(3) }}Review: {{ text }} Sentiment:") -> Prompt:
    vectors = {
        name: t.detach().numpy() for name, t in vars(learned(model, kind, torch.float32)).items() if t is not None
    }
    return Prompt("p", body, None, CHOICES, SoftTokens(vectors, model.name, model.fingerprint, "m", "r", 1))


def test_question_and_answer_are_texts_of_their_own() -> None:
    """As T5 is trained: both end in eos, and the answer has no space before it that would belong to the question."""
    tok, eos = tokenizer(), tokenizer().eos_token_id
    pieces = Prompt("p", "{{ virtual(2) }}Review: {{ text }} Sentiment: ").render({"text": "a film"})
    encoded = encode(pieces, tok, apart=True)
    assert encoded.ids.tolist() == [-1, -2, *tok.encode("Review: a film Sentiment:"), eos]
    assert encode_answer("positive", encoded.tail, tok) == (*tok.encode("positive"), eos)
    assert encode_answer("positive", encoded.tail, tok, ended=True) == (*tok.encode("positive"), eos)


def test_a_tokenizer_with_ends_of_its_own_keeps_them() -> None:
    """BART's writes <s> and </s> around every text, its answers included."""
    plain, tok = tokenizer(), copy.deepcopy(tokenizer())
    tok._tokenizer.post_processor = processors.TemplateProcessing(
        single="( $A )", special_tokens=[(end, plain.encode(end)[0]) for end in "()"]
    )
    begin, end = plain.encode("()")
    ids = encode(Prompt("p", "{{ virtual(1) }}film").render({}), tok, apart=True).ids.tolist()
    assert ids == [-1, begin, *plain.encode("film"), end]
    assert encode_answer("good", None, tok) == (begin, *plain.encode("good"), end)


@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_whole_answers(family: str, kind: str) -> None:
    """Alone or among others; the virtual tokens of a prefix count as read."""
    model = backbone(family)
    prompt = soft(model, kind)
    scores = model.score(prompt, ROWS)
    for i, row in enumerate(ROWS):
        ids = model.encode(prompt, row).ids
        for k, choice in enumerate(CHOICES.choices):
            answer = (*model.tokenizer.encode(choice), model.tokenizer.eos_token_id)
            expected = naive(model, [Example(ids, (answer,))], ids[:0], model.vectors(prompt)).sum().item()
            assert abs(scores.log_likelihoods[i, k] - expected) < 1e-4 * abs(expected)
            assert scores.tokens[i, k] == len(answer)
        alone = model.answer(prompt, [row])[0]
        assert np.allclose(alone.log_likelihoods, scores.log_likelihoods[i], rtol=1e-5)
        assert alone.prompt_tokens == scores.prompt_tokens[i] == len(ids)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_generation_equals_transformers_own(family: str) -> None:
    """Rows of different lengths in one batch, against each row's ids through plain greedy `generate`."""
    model = backbone(family)
    prompt = Prompt("p", "Review: {{ text }} Sentiment:")
    for row, answer in zip(ROWS, model.answer(prompt, ROWS, Sampling(max_tokens=8)), strict=True):
        ids = torch.tensor([[*model.tokenizer.encode(f"Review: {row['text']} Sentiment:"), 0]])
        out = model.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=0,
            pad_token_id=0, use_cache=False,
        )  # fmt: skip
        assert answer.text == model.tokenizer.decode(out[0, 1:], skip_special_tokens=True).strip()
        assert answer.prompt_tokens == ids.shape[1]


@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("kind", KINDS)
def test_generation_writes_what_is_likeliest(family: str, kind: str) -> None:
    """Every token that greedy generation writes is the likeliest by `log_probs`."""
    model = backbone(family)
    prompt = soft(model, kind).replace(output=Output())
    vectors = model.vectors(prompt)
    for row, answer in zip(ROWS, model.answer(prompt, ROWS, Sampling(max_tokens=5)), strict=True):
        ids, written = model.encode(prompt, row).ids, []
        every = np.array(range(len(model.tokenizer)))
        while len(written) < 5:
            example = Example(ids[P:], tuple((*written, int(token)) for token in every))
            with torch.no_grad():
                last = model.log_probs([example], ids[:P], vectors).view(len(every), -1)[:, -1]
            written.append(int(last.argmax()))
            if written[-1] == model.tokenizer.eos_token_id:
                break
        assert answer.text == model.tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_a_saved_model_is_loaded_as_what_it_is(family: str, tmp_path: Path) -> None:
    model = backbone(family)
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    found = Backbone.load(str(tmp_path), dtype="float32")
    assert type(found.model) is type(model.model)
    assert found.fingerprint == model.fingerprint != backbone().fingerprint
    assert backbone(family, torch.bfloat16).fingerprint == model.fingerprint != backbone(family, seed=1).fingerprint
    prompt = soft(model, "embeddings")
    ours, loaded = (m.score(prompt, ROWS).log_likelihoods for m in (model, found))
    assert np.allclose(ours, loaded, rtol=1e-5)
    assert found.generate(prompt, text="a film") in CHOICES.choices


def test_a_long_row_is_refused_only_where_the_model_has_an_end() -> None:
    """Encoder and decoder each have the whole context; T5's relative positions have none."""
    long = {"text": "film " * 300}
    prompt = Prompt("p", "{{ text }}", None, CHOICES)
    assert backbone("t5").answer(prompt, [long])[0].prompt_tokens > 256
    bart, ids = backbone("bart"), np.full(250, 9)
    with pytest.raises(ForewordError, match=r"'text': 'film film.*tokens; 'tiny-bart' reads 256 at most"):
        bart.answer(prompt, [long])
    with pytest.raises(ForewordError, match="and 257 to write are more than the 256"):
        bart.answer(Prompt("p", "{{ text }}"), [ROWS[0]], Sampling(max_tokens=257))
    assert bart.log_probs([Example(ids, (tuple(ids),))], ids[:0]).isfinite().all()
    with pytest.raises(ForewordError, match="a row has 257 tokens"):
        bart.log_probs([Example(ids[:240], (tuple(ids[:249]),))], np.arange(-1, -9, -1), prefix(bart, 8))


def prefix(model: Backbone, count: int) -> Vectors:
    L, H, size = model.cache_shape
    return Vectors(keys=torch.zeros(L, H, count, size), values=torch.zeros(L, H, count, size))


def test_a_model_that_cannot_be_run_is_refused() -> None:
    """The experts of Switch Transformers take so many tokens of a batch and no more: rows change each other."""
    small = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    switch = hf.SwitchTransformersForConditionalGeneration(
        hf.SwitchTransformersConfig(num_experts=2, decoder_start_token_id=1, **small)
    )
    with pytest.raises(ForewordError, match=r"'x' is of the family 'switch_transformers'.* choose a model of the T5"):
        Backbone(switch, tokenizer(), "x")
    nowhere = hf.T5ForConditionalGeneration(hf.T5Config(**small))
    nowhere.generation_config.decoder_start_token_id = None
    with pytest.raises(ForewordError, match=r"'x' does not say what its answers start from: .*decoder_start_token_id"):
        Backbone(nowhere, tokenizer(), "x")
