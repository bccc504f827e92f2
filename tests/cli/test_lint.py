"""`foreword prompts lint`, and what the other verbs say of partials, typed inputs and budgets."""

import json
from pathlib import Path

from project import Call


def test_lint_ends_with_1_where_there_are_errors(project: Path, call: Call) -> None:
    sound = call("prompts", "lint", "plain.prompt", "--task", "toy.yaml", "--backbone", "tiny", "--json")
    assert (sound.exit_code, [f["severity"] for f in json.loads(sound.stdout)["findings"]]) == (0, ["note"])
    (project / "odd.prompt").write_text("---\noutput: {choices: [very, very good]}\n---\n{{ text }}:")
    assert call("prompts", "lint", "odd.prompt").exit_code == 0
    odd = call("prompts", "lint", "odd.prompt", "-b", "tiny", "--json")
    assert odd.exit_code == 1
    assert [f["what"] for f in json.loads(odd.stdout)["findings"] if f["severity"] == "error"] == [
        "the tokens of the answer 'very' are the first ones of 'very good': they cannot be told apart"
    ]
    against = call("prompts", "lint", "odd.prompt", "--task", "toy.yaml")
    assert against.exit_code == 1
    assert "odd.prompt:2: error: prompt 'odd' answers ['very', 'very good']" in against.stdout
    assert call("prompts", "lint", "gone.prompt").exit_code == 1
    assert call("prompts", "lint", "gone").exit_code == 2


def test_partials_types_and_budgets_on_the_command_line(project: Path, call: Call) -> None:
    (project / "style.prompt").write_text("Be {{ tone|default('brief') }}.")
    (project / "p.prompt").write_text(
        "---\ninputs: {n: {type: integer, maximum: 3}, text: {maxTokens: 5, truncate: end}, tone: {default: dry}}\n"
        '---\n{% include "style@prod" %}\n{{ n }} {{ text }}'
    )
    missing = call("prompts", "add", "p.prompt")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "there is no prompt 'style'" in missing.stderr
    assert call("prompts", "add", "style.prompt", "--alias", "prod").exit_code == 0
    assert call("prompts", "add", "p.prompt").exit_code == 0
    assert "style@prod: {version: 1, digest: " in call("prompts", "show", "p").stdout
    assert call("prompts", "lint", "p").exit_code == 0
    (project / "style.prompt").write_text("Be {{ tone }}, and kind.")
    assert call("prompts", "add", "style.prompt", "--alias", "prod").exit_code == 0
    assert call("prompts", "delete", "style:1").exit_code == 0
    assert call("prompts", "lint", "p").exit_code == 0  # it has what it was stored with
    run = call("run", "p", "-i", "n=2", "-i", "text=a quiet , generous film " * 9, "-b", "tiny", "--max-tokens", "2")
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["cuts"][0]["truncate"] == "end"
    assert "warning: input 'text' of prompt 'p' is longer than its 5 tokens; its end is cut\n" in run.stderr
    wrong = call("run", "p", "-i", "n=4", "-i", "text=a", "-b", "tiny")
    assert "input 'n' is not as declared: 4 is greater than the maximum of 3" in wrong.stderr
    assert "input 'n': 'two' is no integer" in call("run", "p", "-i", "n=two", "-i", "text=a", "-b", "tiny").stderr
