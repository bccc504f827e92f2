"""`foreword prompts calibrate`: what a comparison measures calibrated can be stored so."""

import json
from pathlib import Path
from typing import Any

import pytest

from foreword.backbone import Backbone
from foreword.table import PromptTable
from foreword.tasks import Task

TINY = ("--backbone", "tiny", "--dtype", "float32")


@pytest.mark.usefixtures("project")
def test_a_calibrated_version_is_stored_and_answers_without_the_leaning(call: Any) -> None:
    call("prompts", "add", "plain.prompt", "--alias", "prod")
    done = call("prompts", "calibrate", "plain@prod", "--task", "toy.yaml", "--alias", "fair", "--json", *TINY)
    assert done.exit_code == 0, done.stderr
    told, table = json.loads(done.stdout), PromptTable.open()
    stored = table.get("plain@fair")
    assert (told["prompt"], table.find("plain@fair").parent) == ("plain:2", "plain:1")
    assert stored.output.log_prior == pytest.approx(told["log_prior"])
    model, rows = Backbone.load("tiny", "float32"), Task.load("toy.yaml").train
    inputs = [{"text": row.inputs["text"]} for row in rows]
    shares = model.score(table.get("plain"), inputs).probabilities(stored.output.log_prior).mean(0)
    assert shares == pytest.approx([0.5, 0.5], abs=0.02), "over the rows that it was measured on, no choice is ahead"


def test_free_text_has_nothing_to_calibrate(call: Any, project: Path) -> None:
    (project / "words.yaml").write_text((project / "toy.yaml").read_text().replace(", choices: [bad, good]", ""))
    done = call("prompts", "calibrate", "free.prompt", "--task", "words.yaml", *TINY)
    assert (done.exit_code, "has no choices" in done.stderr) == (2, True)
