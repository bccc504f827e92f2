"""`foreword prompts diff`: one call tells people and programs what turns one prompt into another."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from foreword.backbone import Backbone
from foreword.prompts import Prompt
from foreword.table import PromptTable
from foreword.tasks import Task
from foreword.tuning.start import start_vectors

TINY = ("--backbone", "tiny", "--dtype", "float32")


def add(call: Any, project: Path, *changes: tuple[str, str]) -> None:
    """A version of `plain` for every change, one upon the other, behind the first."""
    path = project / "plain.prompt"
    assert call("prompts", "add", path).exit_code == 0
    for old, new in changes:
        path.write_text(path.read_text().replace(old, new))
        assert call("prompts", "add", path).exit_code == 0


def test_a_name_alone_means_its_two_newest_versions(call: Any, project: Path) -> None:
    add(call, project, ("Review", "Opinion"), ("text: {}", "text: {maxLength: 400}"), ("Opinion", "View"))
    ended = call("prompts", "diff", "plain", "-i", "text=a quiet film")
    assert ended.stdout.splitlines() == [
        "plain:3 (A) → plain:4 (B)",
        *("--- plain:3", "+++ plain:4", "@@ -1,2 +1,2 @@"),
        *("-Opinion: {{ text }}", "+View: {{ text }}", " Sentiment:"),
        "",
        "Rendered: 1 of 1 rows differ.",
        "--input",
        *("--- plain:3", "+++ plain:4", "@@ -1,2 +1,2 @@"),
        *("-Opinion: a quiet film", "+View: a quiet film", " Sentiment:"),
    ]
    fields = json.loads(call("prompts", "diff", "plain:2", "plain:3", "--json").stdout)
    assert fields["fields"] == [{"field": "inputs.text.maxLength", "before": None, "after": 400}]
    assert (fields["text"], fields["rendered"], fields["answers"], fields["vectors"]) == ([], None, None, None)
    assert call("prompts", "alias", "plain", "prod", 1).exit_code == 0
    (project / "first.prompt").write_text(PromptTable.open().get("plain:1").to_text())
    same = call("prompts", "diff", "plain@prod", "first.prompt")
    assert same.stdout == "plain:1 and first.prompt are the same.\n"


def test_rows_of_a_file_are_rendered_with_their_own_types(call: Any, project: Path) -> None:
    (project / "a.prompt").write_text(
        "---\ninputs: {items: {type: array}}\n---\n{% for i in items %}{{ i }}{% endfor %}"
    )
    (project / "b.prompt").write_text("---\ninputs: {items: {type: array}}\n---\n{{ items | join('-') }}")
    (project / "rows.jsonl").write_text('{"items": [1], "more": 2}\n\n{"items": [1, 2]}\n')
    ended = call("prompts", "diff", "a.prompt", "b.prompt", "--inputs", "rows.jsonl", "--json")
    first, second = json.loads(ended.stdout)["rendered"]
    assert (first["row"], first["text"]) == ("'rows.jsonl', line 1", [])
    assert second["row"] == "'rows.jsonl', line 3"
    assert second["text"][-2:] == ["-12", "+1-2"]
    told = json.loads(call("prompts", "diff", "a.prompt", "b.prompt", "--input", "items=[3, 4]", "--json").stdout)
    assert told["rendered"][0]["text"][-2:] == ["-34", "+3-4"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_of_rows_may_lack_what_has_a_default(call: Any, project: Path, ending: str) -> None:
    for name in "ab":
        front = "---\ninputs: {n: {type: integer}, tone: {default: dry}, style: {default: old}}\n---\n"
        (project / f"{name}.prompt").write_text(f"{front}{name} {{{{ n }}}} {{{{ tone }}}} {{{{ style }}}}")
    rows = pa.table({"n": ["5"], "tone": ["warm"]})
    (csv.write_csv if ending == "csv" else parquet.write_table)(rows, str(project / f"rows.{ending}"))
    ended = call("prompts", "diff", "a.prompt", "b.prompt", "--inputs", f"rows.{ending}", "--json")
    assert json.loads(ended.stdout)["rendered"][0]["text"][-2:] == ["-a 5 warm old", "+b 5 warm old"]


def test_vectors_starts_and_answers_of_two_runs(call: Any) -> None:
    for out, steps, rate in (("one", 1, 0.01), ("two", 12, 0.2)):
        given = ("--start", "plain.prompt", "--name", "soft", "--tokens", 20, "--out", out, "--lr", rate)
        assert call("tune", "toy.yaml", *TINY, "--steps", steps, *given).exit_code == 0
    given = ("prompts", "diff", "soft", "--run", "two", "--task", "toy.yaml", *TINY)
    document = json.loads(call(*given, "--json").stdout)
    one, two = (PromptTable.open().get(ref) for ref in ("soft:1", "soft:2"))
    assert one.soft is not None
    assert two.soft is not None
    model, task = Backbone.load("tiny", "float32"), Task.load("toy.yaml")
    start = start_vectors(model, two, "text", Prompt.load("plain.prompt"), None, 0).numpy()
    tokens = document["vectors"]["tokens"]["embeddings"]
    a, b = one.soft.embeddings.astype(float), two.soft.embeddings.astype(float)
    assert [t["distance"] for t in tokens] == pytest.approx(list(np.linalg.norm(a - b, axis=1)))
    assert [t["start_distance_b"] for t in tokens] == pytest.approx(list(np.linalg.norm(b - start, axis=1)), rel=1e-5)
    assert "start_distance_a" not in tokens[0]
    assert document["vectors"]["a"]["run"] == one.soft.run

    said = []
    for prompt in (one, two):
        answers = model.answer(prompt, [{"text": row.inputs["text"]} for row in task.dev])
        said.append([answer.text for answer in answers])
    answers = document["answers"]
    flipped = [row for row, x, y in zip(task.dev, *said, strict=True) if x != y]
    assert [flip["row"] for flip in answers["flips"]] == [row.id for row in flipped]
    assert {flip["row"] for flip in answers["flips"]}.isdisjoint(row.id for row in task.test)
    right = [np.mean([x == row.target for x, row in zip(side, task.dev, strict=True)]) for side in said]
    assert answers["difference"]["value"] == pytest.approx(right[1] - right[0])

    told = call(*given).stdout
    for part in (
        "B from its start",
        "16 of 20 tokens, those farthest apart; --json has all.",
        "Answers to 20 dev rows of toy; the test rows are not read.",
        "exact McNemar, p",
        f"{answers['counts']['better']} wrong → right, {answers['counts']['worse']} right → wrong",
    ):
        assert part in told
    refused = call("prompts", "diff", "soft:1", "plain.prompt", "--run", "two")
    assert "the run in 'two' made neither of these prompts" in refused.stderr
    assert "Not compared token by token: B has none." in call("prompts", "diff", "soft:1", "plain.prompt").stdout


def test_what_is_wrong_with_the_call_is_told_before_a_model_is_loaded(call: Any, project: Path) -> None:
    add(call, project)
    for given, code, said in (
        (("plain",), 2, "'plain' has one version only; give the prompt to compare it with"),
        (("plain:1",), 2, "'plain:1' is one prompt; give a second one"),
        (("plane", "plain"), 2, "there is no prompt 'plane'; did you mean 'plain'?"),
        (("plain", "free.prompt", "-i", "txt=a"), 2, "--input 'txt': neither prompt takes it; they take ['text']"),
        (("plain", "free.prompt", "--inputs", "none.csv"), 1, "data file 'none.csv' does not exist"),
        (("plain", "free.prompt", "--run", "none"), 2, "the run in 'none' made neither of these prompts"),
        (("plain", "free.prompt", "--task", "none.yaml"), 1, "cannot read task file 'none.yaml'"),
    ):
        refused = call("prompts", "diff", *given, "--backbone", "nowhere")
        assert (refused.exit_code, refused.stdout) == (code, ""), given
        assert said in refused.stderr
