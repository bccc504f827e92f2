"""`foreword prompts …`: what was put into the table comes out again, for people and for programs."""

import json
from pathlib import Path
from typing import Any

from foreword.backbone import Backbone
from foreword.prompts import Prompt

TINY = ("--backbone", "tiny", "--dtype", "float32")


def test_versions_and_aliases_from_file_to_table_and_back(call: Any, project: Path) -> None:
    assert json.loads(call("prompts", "list", "--json").stdout) == {"prompts": []}
    assert "No prompts yet" in call("prompts", "list").stdout
    assert call("prompts", "add", "plain.prompt", "--alias", "prod", "-m", "first [/b] try").stdout == "plain:1\n"
    assert call("prompts", "add", "plain.prompt").stdout == "plain:1\n", "the same is not stored twice"
    first = (project / "plain.prompt").read_text()
    (project / "plain.prompt").write_text(first.replace("Review", "Opinion"))
    assert call("prompts", "add", "plain.prompt").stdout == "plain:2\n"
    assert call("prompts", "add", "free.prompt").stdout == "free:1\n"

    newest = json.loads(call("prompts", "list", "--json").stdout)["prompts"]
    assert [(entry["name"], entry["version"], entry["kind"]) for entry in newest] == [
        ("free", 1, "hard"),
        ("plain", 2, "hard"),
    ]
    two, one = json.loads(call("prompts", "list", "plain", "--json").stdout)["prompts"]
    assert (one["aliases"], one["message"], two["aliases"]) == (["prod"], "first [/b] try", [])
    assert two["digest"] == Prompt.load("plain.prompt").digest
    shown = call("prompts", "list", "plain").stdout
    assert "first [/b] try" in shown
    assert "prod" in shown

    assert "Review:" in call("prompts", "show", "plain@prod").stdout
    assert call("prompts", "alias", "plain", "prod", 2).stdout == "plain@prod is plain:2\n"
    (project / "again.prompt").write_text(call("prompts", "show", "plain@prod").stdout)
    assert Prompt.load("again.prompt").digest == two["digest"]


def test_rendering_shows_the_tokens_that_the_model_reads(call: Any) -> None:
    call("tune", "toy.yaml", *TINY, "--steps", 1, "--tokens", 2, "--start", "plain.prompt", "--name", "soft")
    ended = call("prompts", "render", "soft", "-i", "text=a film", *TINY, "--json")
    document = json.loads(ended.stdout)
    tokenizer = Backbone.load("tiny").tokenizer
    words = tokenizer.encode("Review: a film\nSentiment:")
    assert document["prompt"] == "soft"
    assert [token["id"] for token in document["tokens"]] == [None, None, *words]
    assert "".join(token["text"] for token in document["tokens"][2:]) == "Review: a film\nSentiment:"
    lines = call("prompts", "render", "soft", "-i", "text=a film", *TINY).stdout.splitlines()
    assert lines[0].startswith("[<virtual 0>][<virtual 1>][")
    assert lines[1] == f"{2 + len(words)} tokens, 2 of them virtual"
    refused = call("prompts", "render", "plain.prompt", "-i", "text=a", "--backbone", "openai:http://localhost/v1#m")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "'openai:http://localhost/v1#m' is a remote model" in refused.stderr
