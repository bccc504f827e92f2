"""On the real backbone: a shared prefix computed once is exact on reviews, and a short run learns, in each dtype."""

import random
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch

from foreword.backbone import Backbone, Vectors
from foreword.prompts import Prompt
from foreword.tasks import Row, Task
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


ANIMALS = """
    cat dog horse cow sheep goat pig lion tiger bear wolf fox deer rabbit mouse elephant monkey zebra giraffe
    camel donkey duck goose chicken turkey eagle owl crow swan shark whale dolphin frog snake lizard turtle
    spider bee ant butterfly
"""
THINGS = """
    hammer saw drill wrench screwdriver axe shovel rake ladder knife scissors spoon fork plate bowl cup bottle
    lamp chair table desk sofa bed shelf door window brush broom bucket rope nail needle pen pencil ruler phone
    camera clock radio keyboard
"""


def words() -> tuple[Task, list[Row]]:
    """A task of 40 words, and 40 others: animals are left and things are right, which no model knows beforehand."""
    rng = random.Random(0)
    left, right = (
        [Row(word, {"text": word}, side) for word in rng.sample(kind.split(), 40)]
        for kind, side in ((ANIMALS, "left"), (THINGS, "right"))
    )
    train = tuple(row for pair in zip(left[:20], right[:20], strict=True) for row in pair)
    return Task("words", ("text",), ("left", "right"), "accuracy", 0, train, (), (), ()), left[20:] + right[20:]


def says_nothing(task: Task) -> Task:
    """With half of each side's labels turned round."""
    other = {"left": "right", "right": "left"}
    wrong = [place // 2 % 2 == 1 for place in range(len(task.train))]
    rows = [
        replace(row, target=other[row.target]) if turned else row for turned, row in zip(wrong, task.train, strict=True)
    ]
    return replace(task, train=tuple(rows))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_short_run_learns_and_a_broken_one_does_not(tmp_path: Path, dtype: str) -> None:
    """Chance is 0.5; with three seeds in both dtypes runs reached 0.80 at least, broken ones 0.65 at most (LOG.md)."""
    torch.set_num_threads(1)  # rows of a few tokens: more threads mostly wait for each other
    model, (task, unseen) = Backbone.load("smollm2-135m", dtype), words()

    def accuracy(task: Task, name: str, steps: int = 60, **settings: float) -> float:
        run = tune(
            model, task, Prompt("arrow", "{{ text }} ->"), steps=steps, eval_every=steps, batch=8,
            init_text="Is it an animal or a tool?", folder=tmp_path / name, **settings,
        )  # fmt: skip
        answers = model.answer(run.prompt, [row.inputs for row in unseen])
        return float(np.mean([answer.value == row.target for answer, row in zip(answers, unseen, strict=True)]))

    assert accuracy(task, "learned") > 0.75
    assert accuracy(task, "still", steps=2, learning_rate=1e-9) < 0.75, "nothing moves at such a rate"
    assert accuracy(says_nothing(task), "nothing") < 0.75


@pytest.mark.slow
def test_a_built_in_backbone_generates_sensible_text() -> None:
    model = Backbone.load("smollm2-135m", "float32")
    assert "Paris" in model.generate(Prompt("q", "{{ user() }}What is the capital of {{ country }}?"), country="France")
