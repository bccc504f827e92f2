"""A mistake of the user's ends in one line on stderr that names it, and an exit code; never in a traceback."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foreword.backbone import Backbone

TUNE = ("tune", "toy.yaml", "--steps", "1", "--tokens", "2", "--out", "run")
RUN = ("run", "plain.prompt")
TINY = ("--backbone", "tiny")
LONG = "film " * 300


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        text = (project / name).read_text()
        assert old in text
        (project / name).write_text(text.replace(old, new, 1))

    return change


def nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "arguments", "code", "said"),
    [
        (nothing, ("tune", "no.yaml"), 1, r"cannot read task file 'no\.yaml'"),
        (edit("toy.yaml", "[text]", "[txt]"), TUNE, 1, r"task 'toy\.yaml': .* no column 'txt'; .* mean 'text'\?"),
        (edit("toy.yaml", "dev: 20", "dev: 0.001"), TUNE, 1, r"task 'toy\.yaml': split 'dev' of 0\.001 is empty"),
        (edit("toy.yaml", "[bad,", "[poor,"), TUNE, 1, r"task 'toy\.yaml': 'rows\.csv', line 3: .* 'bad' is none of"),
        (
            edit("rows.csv", " 16,", f" {LONG},"),
            TUNE,
            1,
            r"row 'rows\.csv:\d+': .* 3\d\d tokens; .* 256 at most",
        ),
        (edit("rows.csv", "text,", "my text,"), TUNE, 1, r"task 'toy\.yaml': .* no column 'text'"),
        (nothing, (*TUNE, "--backbone", "smollm2-135"), 1, r"no backbone 'smollm2-135'; did you mean 'smollm2-135m'"),
        (nothing, (*TUNE, "--backbone", "openai:http://x/v1#m"), 2, r"'openai:http://x/v1#m' is a remote model"),
        (
            nothing,
            (*TUNE, "--method", "lora"),
            2,
            r"method 'lora': choose one of prompt-tuning, residual-prompt-tuning, p-tuning",
        ),
        (nothing, ("tune", "toy.yaml", "--resume"), 2, r"--resume needs --out"),
        (nothing, (*TUNE, "--resume"), 1, r"no checkpoint 'run/checkpoint\.safetensors'"),
        (nothing, (*TUNE, "--init", "prompt", "--start", "plain.prompt"), 2, r"the start 'prompt' needs .* 'plain' is"),
        (edit("plain.prompt", "{{ text", "{{ txt"), RUN, 1, r"prompt 'plain': variable 'txt' is not declared"),
        (edit("plain.prompt", "{{ text", "{{ ''.__class__"), RUN, 1, r"prompt 'plain', line 1: .*__class__"),
        (nothing, RUN, 2, r"prompt 'plain' needs the input 'text'"),
        (nothing, (*RUN, "--input", "text"), 2, r"--input 'text': write it as name=value"),
        (nothing, (*RUN, "--input", "txt=a"), 2, r"prompt 'plain' has no input 'txt'; did you mean 'text'\?"),
        (nothing, (*RUN, "--input", "text=\udcff"), 2, r"--input 'text': '\\udcff' is not UTF-8"),
        (nothing, (*RUN, "--input", f"text={LONG}"), 1, r"the row .* 256 at most"),
        (nothing, (*RUN, "-i", "text=a", "-i", "text=b"), 2, r"--input 'text' is given twice"),
        (nothing, (*RUN, "-i", "text=@no.txt"), 2, r"--input 'text': cannot read 'no\.txt': No such file .*; .* '@@'"),
        (nothing, (*RUN, "-i", "text=@tiny/model.safetensors"), 2, r"--input 'text': 'tiny/.*' is not UTF-8"),
        (
            edit("plain.prompt", "text: {}", "text: {type: integer}"),
            (*RUN, "-i", "text=two"),
            2,
            r".* 'two' is no integer",
        ),
        (nothing, ("run", "no.prompt"), 1, r"no prompt file 'no\.prompt'; .*'foreword prompts list'"),
        (nothing, ("run", "toy.yaml"), 2, r"'toy\.yaml' is a task file, not a chain"),
        (
            nothing,
            ("compare", "plain.prompt", "toy.yaml"),
            2,
            r".* comes first: 'foreword compare toy\.yaml plain\.prompt'",
        ),
        (nothing, ("compare", "plain", "toy.yaml"), 2, r"'plain' is no task file; the task comes first"),
        (nothing, ("prompts", "add", "no.prompt"), 1, r"no prompt file 'no\.prompt'; look at the path$"),
        (nothing, ("prompts", "add", "rows.csv"), 1, r"'rows\.csv' is no prompt file; a prompt ends in \.prompt"),
        (nothing, ("run", "a" * 300), 2, r"'a+'? is no stored prompt"),
        (nothing, ("prompts", "show", "plain", "--table", "rows.csv"), 1, r"cannot use the prompt table '.*rows\.csv'"),
    ],
)
def test_one_line_names_what_is_wrong(
    call: Any, project: Path, change: Callable[[Path], None], arguments: tuple[str, ...], code: int, said: str
) -> None:
    change(project)
    backbone = () if "--backbone" in arguments or arguments[0] == "prompts" else TINY
    ended = call(*arguments, *backbone)
    assert (ended.exit_code, ended.stdout) == (code, "")
    *told, line = ended.stderr.splitlines()
    assert re.match(f"foreword: {said}", line)
    assert not any(before.startswith("foreword") for before in told)


@pytest.mark.parametrize("verb", ["list", "show a", "search a", "tag a b", "delete a", "alias a prod 1", "push a out"])
def test_a_table_that_is_not_there_is_not_made(call: Any, project: Path, verb: str) -> None:
    ended = call("prompts", *verb.split(), "--table", "typo/x.db")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("foreword: there is no prompt table at 'typo/x.db'; look at the path")
    assert not (project / "typo").exists()


def test_a_name_nearly_right_is_suggested(call: Any) -> None:
    call("prompts", "add", "plain.prompt")
    ended = call("run", "plane", "-i", "text=a", *TINY)
    assert ended.exit_code == 2
    assert ended.stderr == "foreword: there is no prompt 'plane'; did you mean 'plain'? stored prompts: plain\n"


def test_a_gpu_that_is_full_ends_in_a_line(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")

    monkeypatch.setattr(Backbone, "answer", full)
    ended = call("run", "plain.prompt", "-i", "text=a", *TINY)
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1].startswith(
        "foreword: the GPU failed: CUDA out of memory. Tried to allocate 2.00 GiB.; choose a smaller backbone"
    )


def test_a_process_tells_by_exit_code_and_stderr_and_shows_a_traceback_when_asked(start: Callable[..., Any]) -> None:
    wrong = ("prompts", "show", "a@b@c")
    plain, debug = start(*wrong), start("--debug", *wrong)
    out, err = plain.communicate(timeout=60)
    assert (plain.returncode, out) == (2, "")
    assert err == "foreword: 'a@b@c' names an alias and a version; give one of them: 'name@alias' or 'name:3'\n"
    out, err = debug.communicate(timeout=60)
    assert (debug.returncode, out) == (1, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert "foreword.errors.UsageError: 'a@b@c' names" in err
