"""`foreword serve keys …`, and what `foreword serve` refuses before it loads anything."""

import json
from pathlib import Path
from typing import Any

import pytest

from foreword.serve.http.keys import Keys


def test_keys_are_made_listed_and_removed(call: Any, project: Path) -> None:
    key = call("serve", "keys", "add", "app").stdout.strip()
    both = json.loads(call("serve", "keys", "add", "ops", "--scope", "admin", "--scope", "use", "--json").stdout)
    assert both["scopes"] == ["admin", "use"]
    assert key not in (project / "keys.json").read_text()
    found = Keys(project / "keys.json")
    assert [getattr(found.find(shown), "name", None) for shown in (key, both["key"], "fw-x")] == ["app", "ops", None]
    listed = json.loads(call("serve", "keys", "list", "--json").stdout)["keys"]
    assert [(one["name"], one["scopes"]) for one in listed] == [("app", ["use"]), ("ops", ["admin", "use"])]
    assert call("serve", "keys", "remove", "app").exit_code == 0
    assert found.find(key) is None
    assert "app" not in call("serve", "keys", "list").stdout
    for wrong in (("add", "ops"), ("add", "a b"), ("add", "x", "--scope", "all"), ("remove", "nobody")):
        assert call("serve", "keys", *wrong).exit_code == 2, wrong


def test_an_open_door_is_refused_at_once(call: Any) -> None:
    assert call("serve", "--host", "0.0.0.0").exit_code == 2
    assert call("serve", "--keys", "no-such.json").exit_code == 1


def test_a_folder_without_an_embedder_is_told_before_a_model_is_loaded(
    call: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = "foreword.serve.engines.registry.make_engine"
    monkeypatch.setattr(loads, lambda *_: pytest.fail("the backbone was loaded first"))
    said = call("serve", "--port", "0", "--embeddings", str(project))
    assert (said.exit_code, "no 'modules.json'" in " ".join(said.stderr.split())) == (2, True)


def test_an_engine_that_is_not_there_says_how_to_get_it(call: Any) -> None:
    said = call("serve", "--engine", "vllm", "--port", "0")
    assert said.exit_code == 1
    assert "pip install 'foreword[vllm]'" in " ".join(said.stderr.split())
    wrong: tuple[tuple[str, ...], ...] = (
        ("--engine", "sglang"),
        ("--engine-option", "max_num_seqs=8"),
        ("--engine", "vllm", "--engine-option", "max_num_seqs"),
    )
    for options in wrong:
        assert call("serve", *options).exit_code == 2, options
