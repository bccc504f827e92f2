"""Every method begins exactly at its start, trains all that it has, and serves what it trained."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foreword
from foreword.backbone import Example, Sampling, Vectors
from foreword.backbone.generate import generate_ids
from foreword.prompts import Prompt
from foreword.tuning import Run, checkpoint, tune
from foreword.tuning.methods import METHODS, Start, count, flat, made
from foreword.tuning.rows import encode_rows
from tiny import backbone
from tuning.test_loop import START, _StopError, run, stop_at, task

P, D, L, H, SIZE, S = 3, 8, 2, 1, 4, 20
KINDS = {
    "dept": {"embeddings", "offsets"},
    "prefix-tuning": {"keys", "values"},
    "prefix-tuning-mlp": {"keys", "values"},
}
NUMBERS = {
    "prompt-tuning": P * D,
    "residual-prompt-tuning": P * D + 2 * D * 128 + 128 + D,
    "p-tuning": P * D + 3 * (D * D + D),
    "p-tuning-lstm": P * D + 2 * 2 * (4 * 4 * (8 + 4) + 2 * 4 * 4) + 2 * (D * D + D),
    "p-tuning-tpmlp": P * D + 8 * D * D + 5 * D,
    "prefix-tuning": 2 * L * H * P * SIZE,
    "prefix-tuning-mlp": P * D + D * 512 + 512 + 513 * 2 * L * H * SIZE,
    "dept": P * D + 8 * (S + D),
    "multitask": P * D + P + D,
    "p-tuning-multitask": P * D + 3 * (D * D + D),
}


def start() -> Start:
    torch.manual_seed(0)
    return Start(torch.randn(P, D), (torch.randn(L, H, P, SIZE), torch.randn(L, H, P, SIZE)), S)


@pytest.mark.parametrize("method", METHODS)
def test_every_encoder_begins_at_its_start_and_trains_all_that_it_has(method: str) -> None:
    origin = start()
    encoder = METHODS[method].encoder(origin)
    assert count(encoder) == NUMBERS[method]
    first = made(encoder)
    assert set(first) == KINDS.get(method, {"embeddings"})
    expected = dict(zip(("keys", "values"), origin.prefix, strict=True))
    expected |= {"embeddings": origin.embeddings, "offsets": torch.zeros(S, D)}
    assert all(torch.allclose(tensor, expected[name]) for name, tensor in first.items())
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-3)
    for _ in range(3):  # what stands before a layer that begins at zero has no gradient in the first step
        optimizer.zero_grad()
        sum((tensor.square() + tensor).sum() for tensor in flat(encoder()).values()).backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
    assert all(not torch.allclose(tensor, first[name]) for name, tensor in made(encoder).items())


@pytest.mark.parametrize("method", METHODS)
def test_what_is_served_is_what_was_trained(tmp_path: Path, method: str) -> None:
    """The table's vectors give the log-probabilities of the encoder's, and a resumed run the same bits."""
    found = run(tmp_path / "whole", method=method, patience=9)
    model, prompt = backbone(), found.prompt
    assert set(prompt.soft.tensors) == KINDS.get(method, {"embeddings"})
    path = tmp_path / "kept.prompt"
    prompt.save(path)
    inputs = [row.inputs for row in task().test]
    served = model.score(Prompt.load(path), inputs).log_likelihoods
    vectors = Vectors(**{name: torch.from_numpy(array) for name, array in prompt.soft.tensors.items()})
    whole = [model.example(prompt, row, prompt.output.choices) for row in inputs]
    shared_prefix = whole[0].question[: vectors.prefix]
    rest = [replace(example, question=example.question[vectors.prefix :]) for example in whole]
    with torch.no_grad():
        trained = model.log_probs(rest, shared_prefix, vectors)
    sums = [part.sum().item() for part in trained.split([len(a) for e in whole for a in e.answers])]
    assert np.allclose(np.reshape(sums, served.shape), served, rtol=1e-4)
    assert model.generate(prompt, text="a quiet film") in prompt.output.choices


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning", "dept"])
def test_what_is_written_is_what_was_likeliest_in_training(tmp_path: Path, method: str) -> None:
    """Greedy text, token by token, is the argmax of the log-probabilities that the loss was taken from."""
    model = backbone()
    settings = {"steps": 2, "batch": 8, "eval_every": 2, "learning_rate": 1e-3 if method == "prefix-tuning" else 0.1}
    found = tune(model, task(choices=False), START, folder=tmp_path / "run", method=method, **settings)
    vectors = model.vectors(found.prompt)
    question = model.encode(found.prompt, {"text": "a quiet , generous film"}).ids
    written = generate_ids(model, [question], vectors, Sampling(), 6)[0]
    shared_prefix, rest = question[: vectors.prefix], question[vectors.prefix :]
    said: tuple[int, ...] = ()
    for _ in written:
        every = [Example(rest, tuple((*said, token) for token in range(model.vocabulary)))]
        with torch.no_grad():
            likely = model.log_probs(every, shared_prefix, vectors).view(-1, len(said) + 1)[:, -1]
        said = (*said, int(likely.argmax()))
    assert written
    assert tuple(written) == said


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_in_front_of_an_encoder_decoder(tmp_path: Path, method: str) -> None:
    """All that it trains has a gradient, a resumed run gives the same bits, and what it gives is served."""
    settings = {"steps": 6, "eval_every": 3, "batch": 6, "method": method, "tokens": 4}

    def tuned(name: str, **more: Any) -> Run:
        return tune(backbone("t5"), task(), START, folder=tmp_path / name, **settings, **more)

    whole = tuned("whole")
    with pytest.raises(_StopError):
        tuned("cut", listener=stop_at(4))
    assert tuned("cut", resume=True).prompt.digest == whole.prompt.digest
    moments = checkpoint.read(tmp_path / "whole" / "checkpoint.safetensors").optimizer
    means = {name: tensor for name, tensor in moments.items() if name.endswith("exp_avg")}
    assert len(means) == len(list(METHODS[method].encoder(start()).parameters()))
    assert all(tensor.abs().sum() > 0 for tensor in means.values())
    assert all((means[name] != 0).all() for name in ("tokens.exp_avg", "keys.exp_avg", "values.exp_avg") & means.keys())
    prompt, model = whole.prompt, backbone("t5")
    assert model.generate(prompt, text="a quiet film") in prompt.output.choices
    assert set(prompt.soft.tensors) == KINDS.get(method, {"embeddings"})


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning"])
def test_an_encoder_decoder_is_trained_on_text_that_ends_once(tmp_path: Path, method: str) -> None:
    model, free = backbone("t5"), task(choices=False)
    rows = encode_rows(model, Prompt("p", "{{ text }}"), free, "choices")
    end = model.tokenizer.eos_token_id
    assert rows.examples[0].answers == ((*model.tokenizer.encode("bad"), end),)
    assert rows.longest == max(len(rows.shared_prefix) + len(example.question) for example in rows.examples)
    settings = {"steps": 12, "eval_every": 4, "batch": 40, "tokens": 4, "learning_rate": 0.1}
    found = tune(model, free, START, folder=tmp_path / "run", method=method, **settings)
    losses = [point.loss for point in found.curves[1:]]
    assert losses[2] < losses[1] < losses[0]
    assert isinstance(model.generate(found.prompt, text="a quiet film"), str)


PACKAGE = """
import torch
from torch import nn
from foreword.backbone import Vectors
from foreword.tuning import Method, Start

class Scaled(nn.Module):
    def __init__(self, start: Start) -> None:
        super().__init__()
        self.register_buffer("start", start.embeddings)
        self.scale = nn.Parameter(torch.ones(len(start.embeddings), 1))

    def forward(self) -> Vectors:
        return Vectors(embeddings=self.start * self.scale)

SCALED = Method(Scaled, 0.1, "one factor for each token: P numbers", "nothing else fits")
"""
USES_IT = """
from foreword.cli.tune import list_methods
from foreword.errors import ForewordError
from foreword.tuning import METHODS, TuneOptions, diagnose, read_record
from pathlib import Path
import torch
from tuning.test_loop import _StopError, run, stop_at
torch.set_num_threads(1)
list_methods()
whole = run(Path("whole"), method="scaled", patience=9)
try:
    run(Path("cut"), method="scaled", patience=9, listener=stop_at(7))
except _StopError:
    pass
resumed = run(Path("cut"), method="scaled", patience=9, resume=True)
assert resumed.prompt.digest == whole.prompt.digest
assert whole.curves[-1].moved > 0
assert (whole.trained_parameters, whole.prompt.soft.method) == (16, "scaled")
assert read_record(Path("cut")).file.options.method == "scaled"
try:
    TuneOptions(method="broken").rate
except ForewordError as error:
    print(error)
assert whole.warnings is not None
"""


def test_another_package_adds_a_method(tmp_path: Path) -> None:
    """Installed as pip would; one that cannot be loaded harms nobody who does not ask for it."""
    (tmp_path / "scaling.py").write_text(PACKAGE)
    about = tmp_path / "foreword_scaling-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: foreword-scaling\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[foreword.methods]\nscaled = scaling:SCALED\nbroken = scaling:NOTHING\nprompt-tuning = scaling:SCALED\n"
    )
    path = os.pathsep.join(map(str, (tmp_path, Path(__file__).parents[1], Path(foreword.__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", USES_IT], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "one factor for each token: P numbers; choose it when nothing else fits" in lines["scaled"]
    assert "'broken' of the package 'foreword-scaling' cannot be loaded" in lines["broken"]
    assert "you begin" in lines["prompt-tuning"], "nothing that is built in is replaced"
    assert "'broken' of the package 'foreword-scaling' cannot be loaded" in done.stdout.splitlines()[-1]


def test_the_docs_have_every_method() -> None:
    root = Path(__file__).parents[2]
    about = importlib.util.spec_from_file_location("pages", root / "scripts" / "pages.py")
    pages = importlib.util.module_from_spec(about)
    about.loader.exec_module(pages)
    row = re.compile(r"^\| `([a-z-]+)` \|", re.MULTILINE)
    assert row.findall(pages.methods()) == list(METHODS)
    named = re.findall(r"--method ([a-z-]+)", (root / "docs" / "how-to" / "choose-a-method.md").read_text())
    assert set(named) <= set(METHODS)
