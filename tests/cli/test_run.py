"""`foreword run`: one JSON document on stdout, and nothing else there."""

import json
from pathlib import Path
from typing import Any

from foreword.backbone import Backbone, Sampling
from foreword.prompts import Prompt

TINY = ("--backbone", "tiny", "--dtype", "float32")


def test_the_answer_is_a_document_of_text_value_and_usage(call: Any) -> None:
    ended = call("run", "plain.prompt", "--input", "text=a = b", "--json", *TINY)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stderr == "Backbone tiny: 0 M frozen weights, float32, 1 CPU threads.\n"
    model, prompt = Backbone.load("tiny", "float32"), Prompt.load("plain.prompt")
    expected = model.answer(prompt, [{"text": "a = b"}])[0]
    tokens = len(model.tokenizer.encode("Review: a = b\nSentiment:"))
    assert json.loads(ended.stdout) == {
        "text": expected.text,
        "value": expected.text,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0},
    }

    settings = ("--max-tokens", 5, "--temperature", 0.8, "--top-p", 0.9, "--seed", 3)
    ended = call("run", "free.prompt", "-i", "text=film", *settings, *TINY)
    written = model.generate(Prompt.load("free.prompt"), Sampling(5, 0.8, 0.9, seed=3), text="film")
    document = json.loads(ended.stdout)
    assert document["text"] == document["value"] == written
    assert document["usage"]["completion_tokens"] <= 5


def test_an_input_comes_out_of_a_file(call: Any, project: Path) -> None:
    (project / "mail.txt").write_text("a quiet film\n\n")
    (project / "show.prompt").write_text("{{ a }}|{{ b }}|{{ c }}")
    given = ("-i", "a=@mail.txt", "-i", "b=@@me", "-i", "c=me@home")
    shown = json.loads(call("prompts", "render", "show.prompt", *given, "--json", *TINY).stdout)
    assert "".join(token["text"] for token in shown["tokens"]) == "a quiet film\n|@me|me@home"
    ended = call("run", "show.prompt", "-i", "a=@-", "-i", "b=@nobody", "-i", "c=x", *TINY)
    assert ended.exit_code == 2
    assert "cannot read 'nobody'" in ended.stderr


def test_a_soft_prompt_runs_on_its_own_backbone_only(call: Any) -> None:
    assert call("tune", "toy.yaml", *TINY, "--steps", 2, "--tokens", 3).exit_code == 0
    assert json.loads(call("run", "toy-prompt-tuning", "-i", "text=film", *TINY).stdout)["value"] in ("bad", "good")
    ended = call("run", "toy-prompt-tuning", "-i", "text=film", "--backbone", "other")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.splitlines()[-1].startswith("foreword: prompt 'toy-prompt-tuning' was tuned on 'tiny' (")


def test_a_stored_name_means_the_same_in_every_folder(call: Any, project: Path) -> None:
    assert call("prompts", "add", "plain.prompt").exit_code == 0
    (project / "plain").write_text("another file of that name")
    assert call("prompts", "show", "plain").stdout.startswith("---\nname: plain\n")


SCHEMA = """---
output:
  schema:
    type: object
    properties: {good: {type: boolean}, why: {type: string, maxLength: 6}}
    required: [good, why]
---
Review: {{ text }}
Answer:
"""


def test_json_by_a_schema_is_shown_as_what_it_says_and_a_cut_one_is_an_error(call: Any, project: Path) -> None:
    (project / "read.prompt").write_text(SCHEMA)
    ended = call("run", "read.prompt", "-i", "text=film", *TINY)
    assert ended.exit_code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["value"] == json.loads(document["text"])
    assert isinstance(document["value"]["good"], bool)

    ended = call("run", "read.prompt", "-i", "text=film", "--max-tokens", 4, *TINY)
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["value"] is None
    assert "raise max_tokens" in ended.stderr.splitlines()[-1]


CHAIN = """name: triage
inputs: [text]
steps:
  - {call: free, as: short, with: {text: "{{ text }}"}}
  - {call: plain.prompt, as: label, with: {text: "{{ short }}!"}}
output: label
"""


def test_a_chain_shows_every_steps_answer_and_what_it_cost(call: Any, project: Path) -> None:
    (project / "triage.yaml").write_text(CHAIN)
    assert call("prompts", "add", "free.prompt").exit_code == 0
    ended = call("run", "triage.yaml", "-i", "text=film", "--max-tokens", 5, *TINY)
    assert ended.exit_code == 0, ended.stderr
    document = json.loads(ended.stdout)
    short, label = document["steps"]
    assert (short["name"], short["prompt"], label["name"], label["prompt"]) == ("short", "free", "label", "plain")
    alone = json.loads(call("run", "plain.prompt", "-i", f"text={short['value']}!", *TINY).stdout)
    assert {key: label[key] for key in alone} == alone
    assert (document["text"], document["value"]) == (label["text"], label["value"])
    for count in ("prompt_tokens", "completion_tokens"):
        assert document["usage"][count] == short["usage"][count] + label["usage"][count]
    assert document["ms"] >= max(short["ms"], label["ms"]) > 0

    (project / "triage.yaml").write_text(CHAIN.replace("call: free", "call: fre"))
    ended = call("run", "triage.yaml", "-i", "text=film", "--backbone", "nowhere")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "step 'short': there is no prompt 'fre'; did you mean 'free'?" in ended.stderr
    (project / "triage.yaml").write_text(CHAIN)
    ended = call("run", "triage.yaml", "-i", "txt=film", "--backbone", "nowhere")
    assert (ended.exit_code, ended.stdout) == (2, "")
