"""On the real backbone and real reviews: a shared prefix computed once is exact, and a short run learns."""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch

from foreword.backbone import Backbone, Vectors
from foreword.prompts import Prompt
from foreword.tasks import Task
from foreword.tuning import tune

PLAIN = Prompt("plain", "Review: {{ text }}\nSentiment:")


@pytest.fixture(scope="module")
def task() -> Task:
    with as_file(files("foreword.jobs") / "demo_files" / "movie-sentiment.yaml") as path:
        return Task.load(path)


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_one_row_at_a_time(task: Task) -> None:
    model = Backbone.load("smollm2-135m", "float32")
    whole = [model.example(PLAIN, row.inputs, [row.target]) for row in task.train[:6]]
    start = model.model.get_input_embeddings().weight[1000:1020].clone()
    shared_prefix = np.arange(-1, -21, -1)
    virtual = start.clone().requires_grad_()
    loss = -model.log_probs(whole, shared_prefix, Vectors(virtual)).mean()
    loss.backward()
    naive = start.clone().requires_grad_()
    found = []
    for example in whole:
        ids = torch.tensor([*example.question, *example.answers[0]])
        embedded = torch.cat([naive, model.model.get_input_embeddings()(ids)])
        logits = model.model(inputs_embeds=embedded[None], use_cache=False).logits[0]
        asked = len(example.answers[0])
        found += [torch.log_softmax(logits[-asked - 1 + i], -1)[ids[-asked + i]] for i in range(asked)]
    expected = -torch.stack(found).mean()
    expected.backward()
    assert abs(loss.item() - expected.item()) / expected.item() < 1e-5
    assert ((virtual.grad - naive.grad).norm() / naive.grad.norm()).item() < 1e-4


@pytest.mark.slow
def test_a_short_run_beats_its_start_on_unseen_rows(task: Task, tmp_path: Path) -> None:
    model = Backbone.load("smollm2-135m")
    run = tune(model, task, PLAIN, steps=40, eval_every=40, dev_rows=100, folder=tmp_path / "run")
    inputs, targets = [row.inputs for row in task.dev[100:300]], [row.target for row in task.dev[100:300]]

    def accuracy(prompt: Prompt) -> float:
        answers = model.answer(prompt.answering(task.choices), inputs)
        return float(np.mean([a.value == t for a, t in zip(answers, targets, strict=True)]))

    assert accuracy(run.prompt) > max(0.76, accuracy(PLAIN))


@pytest.mark.slow
def test_a_built_in_backbone_generates_sensible_text() -> None:
    model = Backbone.load("smollm2-135m", "float32")
    assert "Paris" in model.generate(Prompt("q", "{{ user() }}What is the capital of {{ country }}?"), country="France")
