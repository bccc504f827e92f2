"""`foreword run`: one JSON document on stdout, and nothing else there."""

import json
from pathlib import Path
from typing import Any

from foreword.backbone import Backbone, Sampling
from foreword.prompts import Prompt

TINY = ("--backbone", "tiny", "--dtype", "float32")


def test_the_answer_is_a_document_of_text_value_and_usage(call: Any) -> None:
    ended = call("run", "plain.prompt", "--input", "text=a = b", *TINY)
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
