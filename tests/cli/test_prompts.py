"""`foreword prompts …`: what was put into the table comes out again, for people and for programs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from foreword.backbone import Backbone
from foreword.prompts import Partial, Prompt
from foreword.table import PromptTable

TINY = ("--backbone", "tiny", "--dtype", "float32")


def test_versions_and_aliases_from_file_to_table_and_back(call: Any, project: Path) -> None:
    assert json.loads(call("prompts", "list", "--json").stdout) == {"prompts": [], "after": None}
    assert "No prompts yet" in call("prompts", "list").stdout
    assert call("prompts", "add", "plain.prompt", "--alias", "prod", "-m", "first [/b] try").stdout == "plain:1\n"
    again = call("prompts", "add", "plain.prompt", "-m", "why")
    assert again.stdout == "plain:1\n", "the same is not stored twice"
    assert "plain:1 (unchanged): it says the same already; the message is dropped" in again.stderr
    for alias, dropped in (("prod", True), ("next", False)):
        said = call("prompts", "add", "plain.prompt", "-m", "why", "--alias", alias).stderr
        assert ("is dropped" in said) is dropped, "a move of an alias keeps it"
    call("prompts", "alias", "plain", "next", "--remove")
    assert json.loads(call("prompts", "add", "plain.prompt", "--json").stdout)["new"] is False
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
    shown = json.loads(call("prompts", "show", "plain@prod", "--json").stdout)
    assert (shown["prompt"], shown["vectors"]) == ("plain", None)
    assert shown["text"] == call("prompts", "show", "plain@prod").stdout
    assert call("prompts", "alias", "plain", "prod", 2).stdout == "plain@prod is plain:2\n"
    (project / "again.prompt").write_text(call("prompts", "show", "plain@prod").stdout)
    assert Prompt.load("again.prompt").digest == two["digest"]


def test_the_verbs_are_shown_as_a_beginner_needs_them(call: Any) -> None:
    shown = re.findall(r"^\W*(\w+)  +\w", call("prompts", "--help").stdout.partition("Commands")[2], re.MULTILINE)
    assert shown[:4] == ["add", "list", "show", "render"]
    assert shown[-5:] == ["import", "export", "push", "pull", "card"]
    for verb in ("list", "search", "log"):
        assert f"Example: foreword prompts {verb} " in call("prompts", verb, "--help").stdout


def test_a_start_for_tuning_says_what_it_lacks(call: Any, project: Path) -> None:
    (project / "wait.prompt").write_text("{{ virtual(8) }}{{ text }}")
    added = call("prompts", "add", "wait.prompt")
    assert added.stdout == "wait:1\n"
    assert "8 virtual tokens and no vectors: it cannot run before it is tuned" in added.stderr
    for ref in ("wait.prompt", "wait"):
        assert f"{ref}:" in (found := call("prompts", "lint", ref).stdout)
        assert "note: 8 virtual tokens and no vectors" in found


def test_a_text_is_rendered_without_a_model(call: Any, project: Path) -> None:
    (project / "chat.prompt").write_text("{{ system() }}Be kind.{{ user() }}{{ text }}")
    given = ("prompts", "render", "chat.prompt", "-i", "text=Hi <b>", "--text", "--backbone", "nowhere")
    assert call(*given).stdout == "<system>\nBe kind.\n<user>\nHi <b>\n"
    text = "<system>\nBe kind.\n<user>\nHi <b>"
    assert json.loads(call(*given, "--json").stdout) == {"prompt": "chat", "text": text}


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


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_a_tuned_prompt_goes_to_peft_and_comes_back(call: Any) -> None:
    from peft import AutoPeftModelForCausalLM

    call("tune", "toy.yaml", *TINY, "--steps", 1, "--tokens", 2, "--start", "plain.prompt", "--name", "soft")
    out = call("prompts", "export", "soft", "--format", "peft", "out", *TINY).stdout
    assert out.startswith(
        "out: PROMPT_TUNING, 2 virtual tokens on tiny.\nPEFT puts virtual tokens before the whole text"
    )
    assert out.endswith("\n\nReview: {{ text }}\nSentiment:\n")
    theirs = AutoPeftModelForCausalLM.from_pretrained("out")
    soft = PromptTable.open().get("soft").soft
    assert soft is not None
    assert np.array_equal(theirs.prompt_encoder["default"].embedding.weight.numpy(force=True), soft.embeddings)

    back = call("prompts", "import", "out", "--name", "back", "--alias", "staging", *TINY)
    assert back.stdout == "back:1\n"
    assert "check that it is" not in back.stderr, "the folder names this backbone"
    assert call("prompts", "import", "out", "--name", "back", *TINY).stdout == "back:1\n"
    prompt = PromptTable.open().get("back@staging")
    assert prompt.body == "{{ virtual(2) }}{{ text }}"
    assert prompt.soft is not None
    assert np.array_equal(prompt.soft.embeddings, soft.embeddings)
    assert prompt.soft.fingerprint == soft.fingerprint
    note = call("prompts", "import", "out", "--name", "back", "--backbone", "other", "--dtype", "float32").stderr
    assert "The folder names 'tiny'; other has the right shape, but check that it is that model." in note
    assert call("run", "back@staging", "-i", "text=a film", "--max-tokens", 1, *TINY).exit_code == 0
    there = call("prompts", "export", "soft", "out", *TINY)
    assert (there.exit_code, "'out' is there already; --force" in there.stderr) == (2, True)
    assert call("prompts", "export", "soft", "out", "--force", *TINY).exit_code == 0
    elsewhere = call("prompts", "export", "soft", "new", "--backbone", "other", "--dtype", "float32")
    assert (elsewhere.exit_code, elsewhere.stdout) == (1, "")
    assert "was tuned on 'tiny'" in elsewhere.stderr


def test_a_prefix_goes_both_ways_and_is_shown(call: Any) -> None:
    call("tune", "toy.yaml", *TINY, "--method", "prefix-tuning", "--steps", 1, "--tokens", 2, "--name", "soft")
    out = call("prompts", "export", "soft", "out", "--type", "CARTRIDGE", *TINY).stdout
    assert out.startswith("out: CARTRIDGE, 2 virtual tokens on tiny.")
    assert call("prompts", "import", "out", "--name", "back", *TINY).stdout == "back:1\n"
    sent, back = (PromptTable.open().get(name).soft for name in ("soft", "back"))
    assert sent is not None
    assert back is not None
    assert {name: t.tobytes() for name, t in sent.tensors.items()} == {n: t.tobytes() for n, t in back.tensors.items()}
    assert "# 2 virtual tokens, 192 numbers, cartridge on tiny" in call("prompts", "show", "back").stdout
    assert json.loads(call("prompts", "show", "back", "--json").stdout)["vectors"]["virtual_tokens"] == 2

    table = PromptTable.open()
    table.put(Prompt("style", "Be brief."))
    soft = table.get("back")
    body, includes = '{{ virtual(2) }}{% include "style" %} {{ text }}', {"style": Partial(table.get("style"))}
    table.put(soft.replace(name="with-style", body=body, includes=includes))
    beside = "the text of 'style', which it includes"
    assert beside in json.loads(call("prompts", "export", "with-style", "two", "--json", *TINY).stdout)["losses"]
    assert f"not kept: {beside}" in call("prompts", "export", "with-style", "three", *TINY).stderr


def test_one_task_of_several_and_what_is_refused(call: Any, project: Path) -> None:
    folder = project / "many"
    folder.mkdir()
    kind: dict[str, object] = {"peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 1, "num_tasks": 2}
    (folder / "adapter_config.json").write_text(json.dumps(kind))
    rows = np.stack([np.full((1, 32), 1.0), np.full((1, 32), 2.0)]).astype(np.float32)
    tensors = {"prompt_embeddings": rows[1], "prefix_task_cols": rows[:, :, :1].copy(), "prefix_task_rows": rows}
    save_file(tensors, folder / "adapter_model.safetensors")
    stored = call("prompts", "import", "many", "--name", "second", "--task", 1, *TINY)
    assert stored.stdout == "second:1\n"
    assert "The folder does not say which model it was learned on; tiny has the right shape" in stored.stderr
    soft = PromptTable.open().get("second").soft
    assert soft is not None
    assert soft.embeddings.tolist() == [[8.0] * 32]

    for arguments, code, why in (
        (("import", "many", "--name", "x"), 2, "holds prompts for 2 tasks; choose one: --task 0 to 1"),
        (("import", "many", "--name", "No!", "--task", 0), 1, "prompt name 'No!'"),
        (("import", "nowhere", "--name", "x"), 1, "'nowhere' is no folder"),
        (("export", "free.prompt", "out"), 1, "'free' is a hard prompt"),
        (("export", "second", "out", "--format", "onnx"), 2, "there is no format 'onnx'"),
        (("export", "second", "out", "--type", "CARTRIDGE"), 2, "--type 'CARTRIDGE': prompt 'second' holds virtual"),
        (("export", "second", "."), 1, "and no 'adapter_config.json'; choose a new folder"),
    ):
        refused = call("prompts", *arguments, *TINY)
        assert (refused.exit_code, refused.stdout) == (code, ""), arguments
        assert why in refused.stderr
    assert not (project / "out").exists()
