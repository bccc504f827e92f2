"""Several tasks through one encoder: exact steps, bit for bit resumed, tasks added later, and what does not go."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbone import test_log_probs, test_seq2seq
from foreword.backbone import Backbone, Vectors
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning import Run, TuneOptions, checkpoint, loop, tune, tune_many
from foreword.tuning.learner import SoftPromptLearner
from foreword.tuning.loss import Accumulator
from foreword.tuning.methods import METHODS, Start, by_task, flat, made
from foreword.tuning.methods.multitask import Multitask
from foreword.tuning.rows import Batch, TrainingRows, shares
from foreword.tuning.setup import TaskSetup, insert_virtual_tokens
from foreword.tuning.start import begin
from tiny import backbone
from tuning.test_loop import _StopError, stop_at, task

METHODS_OF_MANY = [name for name, method in METHODS.items() if method.multitask]
FREE = task(choices=False, name="free")
LABELS = {"bad": "tedious and silly", "very good": "good"}
OTHER = replace(
    task(),
    name="other",
    choices=tuple(LABELS.values()),
    train=tuple(replace(row, target=LABELS[row.target]) for row in task().train[:7]),
    dev=tuple(replace(row, target=LABELS[row.target]) for row in task().dev),
    test=(),
)
TASKS = [task(), OTHER, FREE]
STARTS = [
    Prompt("a", "Review: {{ text }}\nSentiment:"),
    Prompt("b", "{{ text }}{{ virtual(3) }} is this review good?{{ virtual(1) }} Answer"),
    Prompt("c", "What is the sentiment of this review? {{ text }} It is"),
]
SETTINGS: dict[str, Any] = {"steps": 12, "eval_every": 4, "batch": 7, "tokens": 4, "patience": 9}


def run(folder: Path, method: str, tasks: int = 3, first: int = 0, **settings: Any) -> list[Run]:
    chosen = slice(first, first + tasks)
    given = {**SETTINGS, "method": method, **settings}
    return tune_many(backbone(), TASKS[chosen], STARTS[chosen], folder=folder, **given)


def learner_of(model: Backbone, method: str) -> tuple[SoftPromptLearner, list[TrainingRows]]:
    """An encoder in fp64, away from its start, where parameters stand before a layer of zeros."""
    options = TuneOptions(method=method, tokens=4, clip=1e5)
    setups = [
        TaskSetup.of(model, task, start, insert_virtual_tokens(start.answering(task.choices), 4, task.name), options)
        for task, start in zip(TASKS, STARTS, strict=True)
    ]
    origins = [begin(model, setup, options) for setup in setups]
    learner = SoftPromptLearner(model, [setup.prompt for setup in setups], origins, options)
    learner.encoder.double()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in learner.encoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return learner, [setup.rows for setup in setups]


def naive_loss(model: Backbone, vectors: Vectors, rows: TrainingRows, batch: Batch) -> Tensor:
    """One task's mean loss, a row and an answer at a time through the model's plain forward."""
    naive = test_seq2seq.naive if model.architecture.answers_apart else test_log_probs.naive
    losses: list[Tensor] = []
    for example, right in zip(*batch, strict=True):
        parts = naive(model, [example], rows.shared_prefix, vectors).split([len(answer) for answer in example.answers])
        if len(parts) == 1:
            losses += list(-parts[0])
        else:
            even = len({len(part) for part in parts}) == 1
            scores = torch.stack([part.sum() if even else part.mean() for part in parts])
            losses.append(-torch.log_softmax(scores, 0)[right])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("tokens", [4_096, 60])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "t5", "bart"])
@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_a_step_is_the_mean_over_tasks_of_one_row_at_a_time(
    method: str, family: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, and gradient of every parameter, shared and per task, whether in one pass or in pieces.

    Some families compute norms in fp32. The gradient of `cols` is what points along a token, which an RMS norm hardly
    lets through: what is left is small beside their rounding.
    """
    monkeypatch.setattr("foreword.tuning.loss.STEP_TOKENS", tokens)
    model = backbone(family, torch.float64)
    learner, rows = learner_of(model, method)
    batches = [encoded.batch(0, size, 0) for encoded, size in zip(rows, (5, 2, 3), strict=True)]
    loss = Accumulator(model, rows).loss(learner.vectors(), batches)
    norm = learner.backward_and_clip()
    found = {name: parameter.grad.clone() for name, parameter in learner.encoder.named_parameters()}
    vectors = learner.encoder()
    expected = sum(naive_loss(model, *given) for given in zip(vectors, rows, batches, strict=True)) / len(rows)
    assert abs(loss - expected.item()) < 1e-6 * abs(loss)
    parameters = dict(learner.encoder.named_parameters())
    gradients = torch.autograd.grad(expected, list(parameters.values()))
    assert {name.split(".")[0] for name in found} >= {"shared"}
    for name, gradient in zip(parameters, gradients, strict=True):
        assert gradient.abs().sum() > 0, name
        rounding = 1e-12 if family in ("gpt2", "bart") else 1e-5 if name.startswith("cols") else 1e-6
        assert test_log_probs.relative(found[name], gradient) < rounding, name
    assert abs(norm - torch.cat([g.flatten() for g in gradients]).norm().item()) < 1e-6 * norm


@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_all_tasks_go_through_one_pass(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []
    exact = Backbone.log_probs_mixed

    def counted(self: Backbone, parts: Any) -> Tensor:
        if torch.is_grad_enabled() and any(leaf.requires_grad for p in parts for leaf in flat(p.vectors).values()):
            calls.append(sorted(len(part.examples) for part in parts))
        return exact(self, parts)

    monkeypatch.setattr(Backbone, "log_probs_mixed", counted)
    found = run(tmp_path / "run", method, steps=3)
    assert calls == [[2, 2, 3]] * 3
    assert found[0].curves[-1].rows == 21


@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_every_prompt_begins_exactly_at_its_start(method: str) -> None:
    torch.manual_seed(0)
    starts = [Start(torch.randn(4, 8), None, 20) for _ in range(3)]
    encoder = METHODS[method].encoder(*starts)
    for start, tensors in zip(starts, by_task(made(encoder), 3), strict=True):
        assert torch.equal(tensors["embeddings"], start.embeddings)


def test_multitask_prompt_tuning_is_the_papers_formula() -> None:
    """shared ⊙ (cols · rows), Wang 2023, where all tasks have one start; a higher rank is used in full."""
    torch.manual_seed(0)
    start = Start(torch.randn(4, 8), None, 20)
    encoder = Multitask(start, start, rank=2)
    assert all(torch.equal(vectors.embeddings, start.embeddings) for vectors in encoder())
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(((task + 1) * vectors.embeddings).sin().sum() for task, vectors in enumerate(encoder())).backward()
        optimizer.step()
    shared = start.embeddings + encoder.shared
    for cols, rows, vectors in zip(encoder.cols, encoder.rows, encoder(), strict=True):
        assert torch.allclose(vectors.embeddings, shared * (cols @ rows))
        assert torch.linalg.matrix_rank(cols @ rows) == 2


@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, method: str) -> None:
    whole = run(tmp_path / "whole", method)
    with pytest.raises(_StopError):
        run(tmp_path / "cut", method, listener=stop_at(7))
    resumed = run(tmp_path / "cut", method, resume=True)
    assert [found.prompt.digest for found in resumed] == [found.prompt.digest for found in whole]
    assert len({found.prompt.digest for found in whole}) == 3
    points = [[replace(point, seconds=0) for point in found.curves] for found in (*whole, *resumed)]
    assert all(curve == points[0] for curve in points)
    a, b = (checkpoint.read(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    for part in ("encoder", "optimizer", "ema", "best"):
        one, other = getattr(a, part), getattr(b, part)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_one_task_is_a_run_like_any_other(tmp_path: Path, method: str) -> None:
    [many] = run(tmp_path / "many", method, tasks=1)
    one = tune(backbone(), TASKS[0], STARTS[0], folder=tmp_path / "one", **SETTINGS, method=method)
    assert many.prompt.digest == one.prompt.digest
    assert one.prompt.name == f"toy-{method}"
    assert one.curves[-1].dev_by_task is None


@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_the_loss_falls_for_every_task(tmp_path: Path, method: str) -> None:
    rate = 0.1 if method == "multitask" else 1e-2
    found = run(tmp_path / "run", method, steps=30, eval_every=10, batch=120, learning_rate=rate)
    losses = [point.loss for point in found[0].curves[1:]]
    assert losses[2] < losses[1] < losses[0]
    model = backbone()
    for one, data, start in zip(found, TASKS, STARTS, strict=True):
        setup = TaskSetup.of(model, data, start, one.prompt.replace(soft=None), one.options)
        rows = setup.rows
        assert insert_virtual_tokens(start, 4, one.prompt.name).body == one.prompt.body
        tuned = Vectors(torch.from_numpy(one.prompt.soft.embeddings))
        begun = begin(model, setup, one.options).embeddings
        with torch.no_grad():
            before, after = (naive_loss(model, v, rows, rows.batch(0, 99, 0)) for v in (Vectors(begun), tuned))
        assert after < before
        assert one.prompt.labelled_rows == len(data.train)
        answer = model.generate(one.prompt, text="a quiet film")
        assert data.choices is None or answer in data.choices


def test_the_version_that_is_kept_is_the_best_in_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[bytes]] = {"toy": [], "other": []}
    dev = {"toy": iter([0.1, 0.9, 0.6, 0.0]), "other": iter([0.1, 0.1, 0.6, 0.0])}

    def fake(_backbone: object, task: Task, prompt: Prompt, _rows: object) -> float:
        seen[task.name].append(prompt.soft.embeddings.tobytes())
        return next(dev[task.name])

    monkeypatch.setattr(loop, "measure_dev", fake)
    found = run(tmp_path / "run", "multitask", tasks=2)
    assert [one.prompt.soft.embeddings.tobytes() for one in found] == [seen["toy"][2], seen["other"][2]]
    assert [point.dev for point in found[0].curves] == [0.1, 0.5, 0.6, 0.0]
    assert found[0].curves[1].dev_by_task == {"toy": 0.9, "other": 0.1}
    assert found[0].curves[1].dev_rows == 20


@pytest.mark.parametrize("method", METHODS_OF_MANY)
def test_added_tasks_go_on_from_what_was_learned_and_leave_the_others_alone(tmp_path: Path, method: str) -> None:
    before = run(tmp_path / "first", method, tasks=2)
    files = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    [added] = run(tmp_path / "second", method, tasks=1, first=2, add_to=tmp_path / "first")
    assert {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()} == files
    again = run(tmp_path / "first", method, tasks=2, resume=True)
    assert [one.prompt.digest for one in again] == [one.prompt.digest for one in before]

    told = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("first", "second")]
    assert told[1]["added_to"] == told[0]["id"] == before[0].prompt.soft.run
    first, second = (checkpoint.read(tmp_path / name / "checkpoint.safetensors") for name in ("first", "second"))
    learned = {name: tensor for name, tensor in first.encoder.items() if name.startswith("shared")}
    assert all(tensor.abs().sum() > 0 for tensor in learned.values())
    assert all(not torch.equal(second.encoder[name], tensor) for name, tensor in learned.items()), "it goes on"
    [alone] = run(tmp_path / "alone", method, tasks=1, first=2)
    assert added.prompt.digest != alone.prompt.digest

    with pytest.raises(_StopError):
        run(tmp_path / "cut", method, tasks=1, first=2, add_to=tmp_path / "first", listener=stop_at(6))
    with pytest.raises(ForewordError, match="other settings"):
        run(tmp_path / "cut", method, tasks=1, first=2, resume=True)
    [resumed] = run(tmp_path / "cut", method, tasks=1, first=2, add_to=tmp_path / "first", resume=True)
    assert resumed.prompt.digest == added.prompt.digest

    for folder in ("first", "second"):  # a task of the run itself, and one of the run that it was added to
        with pytest.raises(UsageError, match=f"has a prompt 'toy-{method}' already, which stays as it is"):
            run(tmp_path / "third", method, tasks=1, add_to=tmp_path / folder)


def test_an_added_task_begins_at_its_start_plus_what_the_others_learned(tmp_path: Path) -> None:
    run(tmp_path / "first", "multitask", tasks=2)
    shared = checkpoint.read(tmp_path / "first" / "checkpoint.safetensors").encoder["shared"]
    start = Start(torch.randn(4, 32), None, 20)
    learner = SoftPromptLearner(backbone(), [STARTS[0]], [start], TuneOptions(method="multitask"), {"shared": shared})
    assert torch.equal(learner.ema["embeddings"], start.embeddings + shared)


def test_what_cannot_be_added_to_is_named(tmp_path: Path) -> None:
    def add(folder: str, **settings: Any) -> None:
        run(tmp_path / "new", "multitask", tasks=1, first=2, add_to=tmp_path / folder, **settings)

    run(tmp_path / "done", "multitask", tasks=2)
    with pytest.raises(_StopError):
        run(tmp_path / "cut", "multitask", tasks=2, listener=stop_at(5))
    tune(backbone(), TASKS[0], STARTS[0], folder=tmp_path / "alone", **SETTINGS)
    other = {**SETTINGS, "method": "multitask", "add_to": tmp_path / "done", "folder": tmp_path / "new"}
    cases: list[tuple[str, Callable[[], object]]] = [
        ("holds no run to add tasks to", lambda: add("nothing")),
        ("stopped at step 4 of 12; finish it first with --resume", lambda: add("cut")),
        ("is of 'prompt-tuning', to which no tasks can be added", lambda: add("alone")),
        ("has tokens 4, not 5; give --tokens 4", lambda: add("done", tokens=5)),
        (
            "has method 'multitask', not 'p-tuning-multitask'; give --method multitask",
            lambda: run(tmp_path / "new", "p-tuning-multitask", 1, 2, add_to=tmp_path / "done"),
        ),
        (
            "has another backbone, 'tiny-llama'",
            lambda: tune_many(backbone(seed=5), [FREE], [STARTS[2]], **other),
        ),
    ]
    for said, call in cases:
        with pytest.raises(ForewordError, match=said):
            call()
    assert not (tmp_path / "new").exists()


def test_tasks_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    def many(tasks: list[Task], starts: list[Prompt], method: str = "multitask", **settings: Any) -> None:
        given = {**SETTINGS, "method": method, **settings}
        tune_many(backbone(), tasks, starts, folder=tmp_path / "run", **given)

    with pytest.raises(UsageError, match=r"'p-tuning' tunes one task at a time; .* multitask or p-tuning-multitask"):
        many(TASKS[:2], STARTS[:2], "p-tuning")
    with pytest.raises(UsageError, match="1 start prompts for 2 tasks"):
        many(TASKS[:2], STARTS[:1])
    with pytest.raises(UsageError, match="no task"):
        many([], [])
    with pytest.raises(UsageError, match="two of the tasks would be called 'toy-multitask'"):
        many([TASKS[0], task(name="Toy")], STARTS[:2])
    with pytest.raises(UsageError, match="'other-multitask' has 4 virtual tokens and 'toy-multitask' 5"):
        many(TASKS[:2], STARTS[:2], tokens=5)
    soft = tune(backbone(), TASKS[0], STARTS[0], folder=tmp_path / "soft", **SETTINGS).prompt
    with pytest.raises(UsageError, match="--init text"):
        many(TASKS[:2], [soft, STARTS[1]])
    assert not (tmp_path / "run").exists()


def test_rows_are_shared_out_evenly_and_every_task_has_one() -> None:
    assert [shares(16, 1), shares(16, 3), shares(2, 4)] == [[16], [6, 5, 5], [1, 1, 1, 1]]
