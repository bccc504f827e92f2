"""LoRA: exact against PEFT's own forward, the best version kept, and the model it was given left as it was."""

import copy
import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from transformers.pytorch_utils import Conv1D

import foreword as fw
from evals.test_comparison import CHOICES, PLAIN, task
from foreword.backbone import Backbone, Vectors
from foreword.errors import ForewordError, UsageError
from foreword.evals import compare, evaluate_on_dev
from foreword.listen import Progress
from foreword.prompts import Output, Prompt
from foreword.tuning import Lora, adapt, loop, lora, read_record
from foreword.tuning.loop import measure_dev
from foreword.tuning.lora import LoraLearner, with_adapters
from foreword.tuning.loss import Accumulator
from foreword.tuning.rows import encode_rows
from heard import Heard
from tiny import backbone
from tuning.test_loop import Hears, _StopError, stop_at

UNEVEN = ("bad", "very good")
"""Answers of one token and of several: the objective then compares means."""


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate at which a tiny model learns in a few steps."""
    monkeypatch.setattr(lora, "LEARNING_RATE", 2e-2)


def peft_of(model: Any, adapters: dict[str, torch.Tensor], rank: int) -> tuple[Any, dict[str, Any]]:
    """PEFT's own wrapper around a real copy of `model` with ordinary attention, and its adapters, set to these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        plain = copy.deepcopy(model)
        plain.set_attn_implementation("sdpa")  # eager attention rounds to fp32 in its softmax
        config = LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear"
        )
        theirs = get_peft_model(plain, config)
    own = {name.removeprefix("base_model.model."): p for name, p in theirs.named_parameters() if p.requires_grad}
    assert own.keys() == adapters.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(adapters[name])
    return theirs, own


def adapters_of(model: Backbone) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.model.named_parameters() if "lora_" in name}


def merged(plain: Backbone, twin: Backbone, rank: int) -> Backbone:
    """The adapted model as plain weights, PEFT's modules gone."""
    theirs, _ = peft_of(plain.model, adapters_of(twin), rank)
    return Backbone(theirs.merge_and_unload(), plain.tokenizer, "merged")


@pytest.mark.parametrize("family", ["llama", "qwen", "gpt2", "bloom"])
@pytest.mark.parametrize("choices", [CHOICES, UNEVEN, None])
def test_loss_and_gradient_are_those_of_peft_one_row_at_a_time(family: str, choices: tuple[str, ...] | None) -> None:
    model = backbone(family, torch.float64)
    renamed = dict(zip(CHOICES, choices or CHOICES, strict=True))
    rows = tuple(replace(row, target=renamed[row.target]) for row in task().train[:9])
    data = task(choices=choices, train=rows, dev=(), test=())
    prompt = PLAIN.replace(output=Output(choices=choices))
    encoded = encode_rows(model, prompt, data, "choices")
    twin, adapters = with_adapters(model, 4, seed=0)
    weights = list(adapters.values())
    torch.manual_seed(1)
    for weight in weights:  # B begins at zero, where A has no gradient
        torch.nn.init.normal_(weight, std=0.1)
    assert {w.dtype for w in weights} == {torch.float64}
    loss = Accumulator(twin, [encoded]).loss([Vectors()], [(encoded.examples, encoded.right)], leaves=weights)

    theirs, own = peft_of(model.model, adapters_of(twin), 4)
    losses = []
    for example, right in zip(encoded.examples, encoded.right, strict=True):
        scores = []
        for answer in example.answers:
            ids = torch.tensor([[*encoded.shared_prefix, *example.question, *answer]])
            logits = theirs(input_ids=ids, use_cache=False).logits[0, -len(answer) - 1 : -1]
            tokens = torch.log_softmax(logits, -1)[range(len(answer)), answer]
            scores.append(tokens.mean() if choices == UNEVEN else tokens.sum())
        if choices is None:
            losses.append(-scores[0])
        else:
            losses.append(-torch.log_softmax(torch.stack(scores), 0)[right])
    count = sum(len(e.answers[0]) for e in encoded.examples) if choices is None else len(losses)
    expected = torch.stack(losses).sum() / count
    expected.backward()
    assert abs(loss - expected.item()) < 1e-6 * expected.item()
    for name, parameter in adapters_of(twin).items():
        assert (parameter.grad - own[name].grad).norm() < 1e-6 * own[name].grad.norm(), name
    assert all(p.grad is None for name, p in twin.model.named_parameters() if "lora_" not in name)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_every_linear_layer_but_the_head_is_adapted_and_nothing_is_added_yet(family: str) -> None:
    model = backbone(family)
    twin, adapters = with_adapters(model, 4, seed=0)
    weights = list(adapters.values())
    head = model.model.get_output_embeddings()
    linear = {n: m for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head}
    assert {name.rpartition(".lora_")[0] for name in adapters_of(twin)} == set(linear)
    assert sum(w.numel() for w in weights) == sum(4 * sum(m.weight.shape) for m in linear.values())
    again = list(with_adapters(model, 4, seed=0)[1].values())
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True)), "the seed decides"
    inputs = [{"text": row.inputs["text"]} for row in task().test]
    prompt = PLAIN.answering(CHOICES)
    assert (twin.score(prompt, inputs).log_likelihoods == model.score(prompt, inputs).log_likelihoods).all()


def test_half_precision_weights_are_shared_and_their_adapters_are_fp32() -> None:
    model = backbone(dtype=torch.bfloat16)
    twin, adapters = with_adapters(model, 4, seed=0)
    weights = list(adapters.values())
    assert {w.dtype for w in weights} == {torch.float32}
    ours = {p.data_ptr() for p in model.model.parameters()}
    assert ours == {p.data_ptr() for name, p in twin.model.named_parameters() if "lora_" not in name}


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("stop", [None, _StopError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was_however_it_ends(stop: type[BaseException] | None) -> None:
    model, data, prompt = backbone(), task(), PLAIN.answering(CHOICES)
    inputs = [{"text": row.inputs["text"]} for row in data.test]
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    modules = [(name, type(module), id(module)) for name, module in model.model.named_modules()]
    config, answers = model.model.config.to_dict(), model.score(prompt, inputs).log_likelihoods

    def on_step(progress: Progress) -> None:
        if stop and progress.step == 4:
            raise stop

    if stop:
        with pytest.raises(stop):
            adapt(model, data, PLAIN, Lora(rank=2, steps=6), Hears(on_step))
    else:
        found = adapt(model, data, PLAIN, Lora(rank=2, steps=6), Hears(on_step))
        changed = found.backbone.score(prompt, inputs).log_likelihoods
        assert abs(changed - answers).max() > 1e-2, "the adapters do something"
    after = model.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert [(name, type(module), id(module)) for name, module in model.model.named_modules()] == modules
    assert all(p.grad is None and not p.requires_grad for p in model.model.parameters())
    assert (model.model.config.to_dict(), hasattr(model.model, "peft_config")) == (config, False)
    assert (model.score(prompt, inputs).log_likelihoods == answers).all()


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_what_is_measured_are_the_weights_of_that_step(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared prefixes are kept computed; one of an earlier step, or of the plain weights, would give other numbers."""
    model, data, seen = backbone(family, torch.float64), task(), []
    long = Prompt("long", "What is the sentiment of this review? Review: {{ text }}\nSentiment:")

    def spy(twin: Backbone, data: Any, prompt: Prompt, rows: Any) -> float:
        inputs = [{"text": row.inputs["text"]} for row in rows]
        found = twin.score(prompt, inputs).log_likelihoods
        assert abs(found - merged(model, twin, 2).score(prompt, inputs).log_likelihoods).max() < 1e-9
        seen.append(found)
        return measure_dev(twin, data, prompt, rows)

    monkeypatch.setattr(loop, "measure_dev", spy)
    found = adapt(model, data, long, Lora(rank=2, steps=52))
    assert [point.step for point in found.curve] == [0, 50, 52]
    assert abs(seen[0] - seen[1]).max() > 0.1
    assert abs(seen[1] - seen[2]).max() > 1e-6
    devs = [point.dev for point in found.curve]
    best = max(i for i in range(3) if devs[i] >= max(devs[: i + 1]) - 0.1)  # ten rows tell no less apart
    inputs = [{"text": row.inputs["text"]} for row in data.dev]
    assert (found.backbone.score(found.prompt, inputs).log_likelihoods == seen[best]).all()


def test_what_is_measured_and_kept_is_the_running_average_as_for_soft_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps, followed by hand: weights as the optimizer left them, and their average."""
    walked: list[list[torch.Tensor]] = []
    begun: list[torch.Tensor] = []
    stepped = LoraLearner.optimizer_step

    def spy(learner: LoraLearner, lr_scale: float) -> None:
        if not begun:
            begun.extend(w.detach().clone() for w in learner.leaves)
        stepped(learner, lr_scale)
        walked.append([w.detach().clone() for w in learner.leaves])

    monkeypatch.setattr(LoraLearner, "optimizer_step", spy)
    found = adapt(backbone(), task(), PLAIN, Lora(rank=1, steps=3))
    average = begun
    for number, weights in enumerate(walked, 1):
        share = 1 / (0.3 * number + 1)
        average = [(1 - share) * mean + share * w for mean, w in zip(average, weights, strict=True)]
    kept = list(adapters_of(found.backbone).values())
    assert len(walked) == 3
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(kept, average, strict=True))
    assert not all(torch.allclose(a, b, atol=1e-7) for a, b in zip(kept, walked[-1], strict=True))


@pytest.mark.parametrize(
    ("dev", "kept"), [([0.2, 0.9, 0.4, 0.7], 1), ([0.2, 0.9, 0.4, 0.85], 3), ([0.9, 0.2, 0.4, 0.7], 0), (None, -1)]
)
def test_the_best_version_on_dev_is_the_one_that_is_kept(
    dev: list[float] | None, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[torch.Tensor]] = []
    data = task() if dev else task(dev=())
    scores = iter(dev or [])

    def fake(twin: Backbone, *_: object) -> float:
        seen.append([w.detach().clone() for w in adapters_of(twin).values()])
        return next(scores)

    monkeypatch.setattr(loop, "measure_dev", fake)
    found = adapt(backbone(), data, PLAIN, Lora(rank=1, steps=120))
    weights = list(adapters_of(found.backbone).values())
    assert not any(w.requires_grad or w.grad is not None for w in weights)
    if dev:
        assert all(torch.equal(a, b) for a, b in zip(weights, seen[kept], strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(weights, seen[kept - 1], strict=True))
    else:
        assert any(w.abs().sum() > 0 for name, w in adapters_of(found.backbone).items() if "lora_B" in name)


@pytest.mark.usefixtures("fast")
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    """It is a run like a soft prompt's: a folder, a checkpoint, a curve that tells how steep it was."""
    chosen = Lora(rank=2, steps=60)
    nowhere = adapt(backbone(), task(), PLAIN, chosen)
    whole = adapt(backbone(), task(), PLAIN, chosen, folder=tmp_path / "whole")
    with pytest.raises(_StopError):
        adapt(backbone(), task(), PLAIN, chosen, stop_at(54), folder=tmp_path / "cut")
    resumed = adapt(backbone(), task(), PLAIN, chosen, folder=tmp_path / "cut", resume=True)
    for other in (nowhere, resumed):
        assert [replace(p, seconds=0) for p in other.curve] == [replace(p, seconds=0) for p in whole.curve]
        kept = adapters_of(other.backbone)
        assert all(torch.equal(kept[name], weight) for name, weight in adapters_of(whole.backbone).items())
    assert whole.curve[-1].gradient is not None
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    record = read_record(tmp_path / "cut")
    assert (record.file.method, record.file.lora, record.step) == ("lora", {"rank": 2}, 60)
    with pytest.raises(ForewordError, match=r"other settings \(lora \{'rank': 2\}, now \{'rank': 3\}\)"):
        adapt(backbone(), task(), PLAIN, Lora(rank=3, steps=60), folder=tmp_path / "cut", resume=True)


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_it(spoiled: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accumulator, "loss", lambda *_: spoiled)
    with pytest.raises(ForewordError, match=r"LoRA: the loss is (nan|inf) .* compute in float32, or leave LoRA out"):
        adapt(backbone(), task(dev=()), PLAIN, Lora(rank=2, steps=3))


@pytest.mark.usefixtures("fast")
def test_a_comparison_reports_it_with_what_it_costs() -> None:
    model, data = backbone(), task()
    other = Prompt("other", "{{ text }} is")
    plain = compare(model, data, [PLAIN, other])
    heard = Heard()
    result = fw.compare(model, data, [PLAIN, other], lora=fw.Lora(rank=4, steps=30), listener=heard)
    stages = {name for name, *_ in heard.stages}
    found = result.strategy("toy-lora")
    linear = [m for m in model.model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert (found.kind, found.rows) == ("lora", 60)
    assert found.trained_parameters == sum(4 * sum(m.weight.shape) for m in linear)
    assert result.reference == plain.reference
    assert found.tokens_per_request == result.strategy(result.reference).tokens_per_request
    assert found.ms_per_request > 0
    assert [point.step for point in found.curve] == [0, 30]
    assert found.detail.startswith(f"rank 4, not merged, behind the text of {plain.reference}; ")
    assert found.mean == 1.0, "two words tell the classes apart, and weights can learn any words"
    for name in ("plain", "other"):
        assert result.strategy(name).predictions == plain.strategy(name).predictions
    assert "toy-lora, which needs an adapted copy of the weights," in result.verdict
    assert len(heard.steps) == 30
    assert {"toy-lora: dev", "toy-lora: unlabelled rows", "toy-lora: test"} <= stages
    # The form that does better on dev is the one reported, as for prompts.
    start = next(prompt for prompt in (PLAIN, other) if prompt.name == result.reference)
    again = adapt(model, data, start, Lora(rank=4, steps=30))
    [candidate] = evaluate_on_dev(again.backbone, data, [again.prompt])
    answers = again.backbone.answer(candidate.best, [{"text": row.inputs["text"]} for row in data.test])
    assert found.predictions == tuple(answer.value for answer in answers)


@pytest.mark.usefixtures("fast")
def test_free_text_is_adapted_too() -> None:
    data = task(choices=None, metric="exact_match")
    data = replace(data, test=data.test[:4], dev=data.dev[:4])
    result = compare(backbone(), data, [PLAIN], lora=Lora(rank=4, steps=40))
    found = result.strategy("toy-lora")
    assert set(found.predictions) <= set(CHOICES), "it writes an answer and ends"
    assert math.isfinite(found.curve[-1].loss)


def test_what_cannot_be_done_is_said_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = backbone(), task()

    class Measured(Heard):
        def stage(self, *_: Any) -> None:  # type: ignore[override]
            raise AssertionError("work was done before the refusal")

    def refused(*strategies: Any, on: Any = model, **settings: int) -> str:
        with pytest.raises(ForewordError) as error:
            compare(on, data, strategies or [PLAIN], lora=Lora(**settings), listener=Measured())
        return str(error.value)

    remote = fw.RemoteBackbone.parse("openai:http://127.0.0.1:9/v1#far")
    assert "are remote; give a local backbone" in refused(on=remote)
    assert "two strategies are called 'toy-lora'" in refused(PLAIN.replace(name="toy-lora"))
    with pytest.raises(UsageError, match="behind the text of a hard prompt; compare one too"):
        compare(model, data, [], lora=Lora(), listener=Measured())
    with pytest.raises(UsageError, match="rank of LoRA must be a whole number of at least 1, not 0"):
        Lora(rank=0)
    with pytest.raises(UsageError, match="steps must be a whole number"):
        Lora(steps=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert refused() == "LoRA needs PEFT, which is not installed: pip install 'foreword[peft]'"
