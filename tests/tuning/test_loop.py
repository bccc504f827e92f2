"""A run: it learns, resumes bit for bit, never touches the backbone, and loses nothing when it is stopped."""

import json
import os
import platform
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from foreword.errors import ForewordError, UsageError
from foreword.listen import Progress, Silent
from foreword.prompts import Prompt
from foreword.tasks import Row, Task
from foreword.tuning import Run, checkpoint, folder, loop, loss, tune
from foreword.tuning.methods import METHODS
from foreword.tuning.rows import encode_rows
from tiny import backbone

START = Prompt("start", "Review: {{ text }}\nSentiment:")
GOOD, BAD = ["quiet", "generous", "film", "good"], ["silly", "tedious", "simplistic", "bad"]


def task(choices: bool = True, **changes: Any) -> Task:
    rng = random.Random(0)

    def row(i: int) -> Row:
        words, target = (GOOD, "very good") if i % 2 else (BAD, "bad")
        return Row(f"rows.csv:{i}", {"text": " ".join(rng.choices(words, k=rng.randint(1, 6)))}, target)

    rows = tuple(row(i) for i in range(60))
    made = Task(
        "toy", ("text",), ("bad", "very good") if choices else None, "accuracy" if choices else "exact_match", 7,
        rows[:40], rows[40:50], rows[50:], (),
    )  # fmt: skip
    return replace(made, **changes)


def run(folder: Path, **settings: Any) -> Run:
    return tune(backbone(), task(), START, folder=folder, **{"steps": 12, "eval_every": 4, "batch": 6, **settings})


class _StopError(Exception):
    pass


class Hears(Silent):
    """A listener that hands every step to a function."""

    def __init__(self, on_step: Callable[[Progress], object]) -> None:
        self.on_step = on_step

    def step(self, name: str, progress: Progress) -> None:  # noqa: ARG002
        self.on_step(progress)


def stop_at(step: int) -> Hears:
    def on_step(progress: Progress) -> None:
        if progress.step == step:
            raise _StopError

    return Hears(on_step)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, method: str) -> None:
    whole = run(tmp_path / "whole", method=method)
    with pytest.raises(_StopError):
        run(tmp_path / "cut", method=method, listener=stop_at(7))
    resumed = run(tmp_path / "cut", method=method, resume=True)
    assert resumed.prompt.digest == whole.prompt.digest
    assert [replace(p, seconds=0) for p in resumed.curves] == [replace(p, seconds=0) for p in whole.curves]
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_finished_run_can_be_given_more_steps(tmp_path: Path) -> None:
    first = run(tmp_path / "run", patience=9)
    more = run(tmp_path / "run", steps=20, patience=9, resume=True)
    assert (first.steps, more.steps) == (12, 20)
    assert more.curves[: len(first.curves)] == first.curves
    again = run(tmp_path / "run", steps=20, patience=9, resume=True)
    assert again.prompt.digest == more.prompt.digest


def test_a_run_writes_down_on_what_it_ran_and_its_id_does_not_follow_from_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file(name: str) -> dict[str, Any]:
        return dict(json.loads((tmp_path / name / "run.json").read_text()))

    here = {
        **{package: version(package) for package in ("foreword", "torch", "transformers")},
        "python": platform.python_version(),
        "threads": 1,
        "dtype": "float32",
        "device": "cpu",
    }
    first = run(tmp_path / "run", steps=2, command="foreword tune a")
    begun = file("run")
    assert begun["environment"].items() >= here.items()
    assert begun["environment"]["processor"]
    assert "latest_environment" not in begun

    monkeypatch.setattr(folder, "environment", lambda _: {"torch": "9.9"})
    other = run(tmp_path / "other", steps=2, command="foreword tune b")
    assert file("other") == {**begun, "environment": {"torch": "9.9"}, "command": "foreword tune b"}
    assert first.prompt.digest == other.prompt.digest

    run(tmp_path / "run", steps=2, resume=True, command="foreword tune a --resume")
    latest = {"latest_environment": {"torch": "9.9"}, "latest_command": "foreword tune a --resume"}
    assert file("run") == {**begun, **latest}
    monkeypatch.setattr(folder, "environment", lambda _: begun["environment"])
    run(tmp_path / "run", steps=2, resume=True)
    assert file("run") == begun, "the same again: nothing to add"


@pytest.mark.parametrize("file", [b"{", b"[]", b'{"id": "x"}', None])
def test_a_run_goes_on_without_the_file_that_describes_it(tmp_path: Path, file: bytes | None) -> None:
    path = tmp_path / "run" / "run.json"
    run(tmp_path / "run", steps=2)
    before = json.loads(path.read_text())
    path.unlink() if file is None else path.write_bytes(file)
    run(tmp_path / "run", steps=2, resume=True)
    after = json.loads(path.read_text())
    assert after == {**before, "environment": None, "latest_environment": before["environment"]}, "at first: unknown"


def test_what_a_kill_left_behind_is_mended(tmp_path: Path) -> None:
    found = run(tmp_path / "run")
    for name in (".checkpoint.safetensors.0123456789ab.part", ".run.json.0123456789ab.part", ".mine.part"):
        (tmp_path / "run" / name).write_bytes(b"half")
    lines = (tmp_path / "run" / "curves.jsonl").read_text()
    (tmp_path / "run" / "curves.jsonl").write_text(lines[: lines.index("\n") + 1])
    again = run(tmp_path / "run", resume=True)
    assert again.prompt.digest == found.prompt.digest
    assert (tmp_path / "run" / "curves.jsonl").read_text() == lines
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".lock", ".mine.part", "checkpoint.safetensors", "curves.jsonl", "progress.json", "run.json"}


def test_ctrl_c_saves_between_two_steps(tmp_path: Path) -> None:
    def on_step(progress: Progress) -> None:
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", listener=Hears(on_step))
    assert checkpoint.read(tmp_path / "cut" / "checkpoint.safetensors").step == 6
    resumed = run(tmp_path / "cut", resume=True)
    assert resumed.prompt.soft.embeddings.tobytes() == whole.prompt.soft.embeddings.tobytes()
    assert [replace(p, seconds=0) for p in resumed.curves] == [replace(p, seconds=0) for p in whole.curves]


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning"])
@pytest.mark.parametrize("body", ["Review: {{ text }}\nSentiment:", "{{ text }}{{ virtual(3) }} is{{ virtual(2) }}"])
def test_the_loss_falls_and_the_backbone_stays_as_it_was(tmp_path: Path, method: str, body: str) -> None:
    """How well it learns is measured on the real backbone; a random one can only be pushed."""
    model = backbone()
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    rate = 0.1 if method == "prompt-tuning" else 1e-2
    settings = {"steps": 30, "eval_every": 10, "batch": 40, "learning_rate": rate, "patience": 9}  # a step, all rows
    found = tune(model, task(), Prompt("start", body), folder=tmp_path / "run", method=method, **settings)
    losses = [point.loss for point in found.curves[1:]]
    assert losses[2] < losses[1] < losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.model.parameters())
    lines = [json.loads(line) for line in (tmp_path / "run" / "curves.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [point.step for point in found.curves] == [0, 10, 20, 30]


@pytest.mark.parametrize("method", METHODS)
def test_a_point_says_how_far_the_vectors_have_gone_and_how_steep_it_was(tmp_path: Path, method: str) -> None:
    begun, *later = run(tmp_path / "run", method=method).curves
    assert (begun.moved, begun.gradient, begun.clipped, begun.dev_rows) == (0, None, None, 10)
    assert begun.norm_ratio is not None
    assert 0.5 < begun.norm_ratio < 2, "from a text: real tokens, or the keys and values of such"
    assert all(point.moved > 0 and point.gradient > 0 and 0 <= point.clipped <= 1 for point in later)


def test_the_gradient_is_told_before_it_is_clipped(tmp_path: Path) -> None:
    """AdamW does not see how long a gradient is, so two clips that never and always cut lead to nearly the same."""
    free, cut = (run(tmp_path / str(clip), steps=1, clip=clip).curves[-1] for clip in (1e5, 1e-3))
    assert (free.clipped, cut.clipped) == (0, 1)
    assert free.gradient == cut.gradient > 1e-3


def test_a_prefix_that_begins_at_zero_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    found = run(tmp_path / "run", method="prefix-tuning", init="zero")
    assert {(point.norm_ratio, point.moved) for point in found.curves} == {(None, None)}


def test_a_checkpoint_without_diagnostics_is_still_resumed(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        run(tmp_path / "run", listener=stop_at(7))
    path = tmp_path / "run" / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        state = json.loads(file.metadata()["state"])
    del state["gradients"]
    state["curve"] = [
        {key: point[key] for key in ("step", "rows", "loss", "dev", "seconds")} for point in state["curve"]
    ]
    save_file(tensors, path, {"state": json.dumps(state)})
    resumed = run(tmp_path / "run", resume=True)
    assert resumed.prompt.digest == run(tmp_path / "whole").prompt.digest
    assert resumed.curves[1].gradient is None
    assert resumed.curves[-1].gradient is not None


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """`older/` was written after 4 of 12 steps, when code and files still used the same names."""
    older = Path(__file__).parent / "older"
    with safe_open(older / "checkpoint.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        state = json.loads(file.metadata()["state"])
    begun = json.loads((older / "run.json").read_text())
    assert folder.id_of(state["settings"]) == begun["id"]
    state["settings"]["fingerprint"] = backbone().fingerprint  # with other versions of its libraries, another model
    (tmp_path / "run").mkdir()
    save_file(tensors, tmp_path / "run" / "checkpoint.safetensors", {"state": json.dumps(state)})
    (tmp_path / "run" / "run.json").write_bytes((older / "run.json").read_bytes())
    resumed = run(tmp_path / "run", tokens=4, resume=True)
    whole = run(tmp_path / "whole", tokens=4)
    assert resumed.steps == 12
    assert resumed.prompt.soft.run == whole.prompt.soft.run == folder.id_of(state["settings"])
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("run", "whole"))
    assert a.keys() == b.keys() == tensors.keys()
    assert all(np.allclose(a[name], b[name], rtol=1e-3, atol=1e-4) for name in a), "to the last bits, on one processor"
    assert json.loads((tmp_path / "run" / "run.json").read_text()).keys() >= begun.keys()


@pytest.mark.parametrize("choices", [True, False])
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: bool
) -> None:
    """Long rows go through in pieces to bound memory; what is learned must not depend on it."""
    vectors, losses = [], []
    for tokens in (4_096, 40):
        monkeypatch.setattr(loss, "STEP_TOKENS", tokens)
        found = tune(
            backbone(dtype=torch.float64), task(choices), START, folder=tmp_path / str(tokens), steps=3, batch=8,
            eval_every=3,
        )  # fmt: skip
        vectors.append(checkpoint.read(found.folder / "checkpoint.safetensors").encoder["tokens"])
        losses.append(found.curves[-1].loss)
    assert torch.allclose(vectors[0], vectors[1], rtol=1e-4, atol=1e-6)
    assert abs(losses[0] - losses[1]) < 1e-6 * losses[0]


def test_text_answers_are_trained_to_end() -> None:
    model = backbone()
    data = encode_rows(model, Prompt("p", "{{ text }}:"), task(choices=False), "choices")
    end = model.tokenizer.eos_token_id
    assert [example.answers[0] for example in data.examples[:2]] == [
        (*model.tokenizer.encode(" bad"), end),
        (*model.tokenizer.encode(" very good"), end),
    ]


def test_the_best_version_on_dev_is_the_one_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    dev = iter([0.2, 0.9, 0.4, 0.85, 0.1, 0.1])

    def fake(_backbone: object, _task: object, prompt: Prompt, _rows: object) -> float:
        seen.append(prompt.soft.embeddings.tobytes())
        return next(dev)

    monkeypatch.setattr(loop, "measure_dev", fake)
    found = run(tmp_path / "run", steps=100, patience=3)
    assert found.prompt.soft.embeddings.tobytes() == seen[3], "the later of two that ten rows cannot tell apart"
    assert found.steps == 16, "three measurements after the best one without a better one end the run"


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = loss.mean_loss
    calls = iter(range(100))
    monkeypatch.setattr(loss, "mean_loss", lambda *a: exact(*a) * (float("nan") if next(calls) == 6 else 1))
    with pytest.raises(ForewordError, match=r"loss is nan .* at step 6.*step 4.*is kept.*--lr 0\.0067"):
        run(tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert saved.step == 4
    assert torch.isfinite(saved.best["embeddings"]).all()


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    import resource

    def on_step(progress: Progress) -> None:
        if progress.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(ForewordError, match=r"cannot write .*checkpoint\.safetensors.*untouched"):
            run(tmp_path / "run", listener=Hears(on_step))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors").step == 4
    whole, resumed = run(tmp_path / "whole"), run(tmp_path / "run", resume=True)
    assert resumed.prompt.soft.embeddings.tobytes() == whole.prompt.soft.embeddings.tobytes()


def test_a_folder_takes_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def intrude(progress: Progress) -> None:
        if progress.step == 1:
            with pytest.raises(ForewordError, match="another process is tuning"):
                run(tmp_path / "run")

    run(tmp_path / "run", listener=Hears(intrude))
    with pytest.raises(ForewordError, match="holds a run already"):
        run(tmp_path / "run")
    with pytest.raises(ForewordError, match=r"other settings \(batch 6, now 7\)"):
        run(tmp_path / "run", batch=7, resume=True)
    with pytest.raises(ForewordError, match="no checkpoint"):
        run(tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    other = START.replace(body="{{ text }}")
    with pytest.raises(ForewordError, match=r"other settings \(start "):
        tune(backbone(), task(), other, folder=tmp_path / "run", resume=True, steps=12, eval_every=4, batch=6)
    for change in ({"choices": ("very good", "bad")}, {"metric": "f1"}):
        changed, again = replace(task(), **change), {"resume": True, "steps": 12, "eval_every": 4, "batch": 6}
        with pytest.raises(ForewordError, match=rf"other settings \({next(iter(change))} "):
            tune(backbone(), changed, START, folder=tmp_path / "run", **again)
    with monkeypatch.context() as later:  # another default, as a later version may have
        later.setitem(METHODS._built_in, "prompt-tuning", replace(METHODS["prompt-tuning"], learning_rate=0.01))
        with pytest.raises(ForewordError, match=r"other settings \(learning_rate 0\.02, now 0\.01\)"):
            run(tmp_path / "run", resume=True)
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(ForewordError, match="is no checkpoint"):
        run(tmp_path / "run", resume=True)


def test_what_is_wrong_with_a_call_or_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no setting 'token'; there are: method, tokens"):
        run(tmp_path / "a", token=3)
    with pytest.raises(UsageError, match="method 'lora'"):
        run(tmp_path / "a", method="lora")
    with pytest.raises(UsageError, match=r"rows\.csv:0: .* needs the input 'title'; the row has"):
        tune(backbone(), task(), Prompt("start", "{{ title }}"), folder=tmp_path / "b")
    long = replace(task().train[0], inputs={"text": "film " * 300})
    with pytest.raises(UsageError, match=r"'start' shows no input of task 'toy'.*write \{\{ text \}\} into it"):
        tune(backbone(), task(), Prompt("start", "Sentiment:"), folder=tmp_path / "b")
    with pytest.raises(UsageError, match="this run begins at 'labels'"):
        run(tmp_path / "a", init="labels", init_text="good words")
    with pytest.raises(UsageError, match="seed must be a whole number"):
        run(tmp_path / "a", seed=10**20)
    with pytest.raises(ForewordError, match=r"row 'rows\.csv:0': the row .* 256 at most"):
        tune(backbone(), task(train=(long,)), START, folder=tmp_path / "c")
    with pytest.raises(UsageError, match="make them the same"):
        tune(backbone(), task(), START.answering(("yes", "no")), folder=tmp_path / "d")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tensors: tensors.pop("encoder.tokens"), r"encoder\.tokens has the shape None"),
        (lambda tensors: tensors.update({"best.embeddings": torch.zeros(3, 2)}), r"best\.embeddings has .*\(3, 2\)"),
        (lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith("optimiser.")], "optimiser"),
    ],
)
def test_a_checkpoint_whose_tensors_do_not_fit_is_refused(tmp_path: Path, spoil: Any, said: str) -> None:
    run(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    spoil(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(ForewordError, match=said):
        run(tmp_path / "run", steps=20, resume=True)


def test_a_run_that_is_given_more_steps_ends_where_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best step, the end of the shorter run, is no multiple of the distance between measurements."""
    scores = iter([0.1, 0.2, 0.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr("foreword.tuning.loop.measure_dev", lambda *_: next(scores))
    run(tmp_path / "run", steps=6, patience=2)
    longer = run(tmp_path / "run", steps=40, patience=2, resume=True)
    assert [point.step for point in longer.curves] == [0, 4, 6, 8, 12, 16]
    state = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert (state.step, state.settings["options"]["steps"], longer.steps) == (16, 40, 16)
    assert run(tmp_path / "run", steps=60, patience=2, resume=True).steps == 16, "over, with steps to spare"
    state = checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")
    assert state.settings["options"]["steps"] == 60, "or nobody would know the run by its id"


def test_long_steps_are_saved_between_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreword.tuning.loop.SAVE_SECONDS", -1.0)
    whole = run(tmp_path / "whole")
    with pytest.raises(_StopError):
        run(tmp_path / "run", listener=stop_at(7))
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors").step == 7
    assert run(tmp_path / "run", resume=True).prompt.digest == whole.prompt.digest
