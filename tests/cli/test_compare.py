"""`foreword compare`: the documents that other programs read, and the page that people read."""

import json
from pathlib import Path
from typing import Any

TINY = ("--backbone", "tiny", "--dtype", "float32")
STRATEGY = {"name", "kind", "metrics", "tokens_per_request", "ms_per_request", "trained_parameters", "rows"}
COMPARISON = {"a", "b", "metric", "difference", "low", "high", "p_value", "test"}


def test_the_documents_have_the_stated_shape(call: Any, project: Path) -> None:
    assert call("tune", "toy.yaml", *TINY, "--steps", 2, "--tokens", 3, "--start", "plain.prompt").exit_code == 0
    given = ("toy.yaml", "plain.prompt", "toy-prompt-tuning", "--examples", 2, "--out", "out", "--seed", 5)
    ended = call("compare", *given, *TINY, "--json")
    assert ended.exit_code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document == json.loads((project / "out" / "result.json").read_text())
    assert document.keys() >= {"task", "backbone", "seed", "strategies", "comparisons", "verdict"}
    assert (document["task"], document["backbone"], document["seed"]) == ("toy", "tiny", 5)
    strategies = {strategy["name"]: strategy for strategy in document["strategies"]}
    for strategy in strategies.values():
        assert strategy.keys() >= STRATEGY
        accuracy = strategy["metrics"]["accuracy"]
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    kinds = [strategy["kind"] for strategy in strategies.values()]
    assert sorted(kinds) == ["baseline", "baseline", "hard", "hard", "soft"]
    assert strategies["toy-prompt-tuning"]["trained_parameters"] == 3 * 32
    assert strategies["toy-prompt-tuning"]["rows"] == 40
    assert strategies["plain-2-shot"]["rows"] == 2
    plain, soft = (strategies[name]["tokens_per_request"] for name in ("plain", "toy-prompt-tuning"))
    assert soft == plain + 3, "three virtual tokens in front of the same words"
    assert len(document["comparisons"]) == 4
    for comparison in document["comparisons"]:
        assert comparison.keys() >= COMPARISON
        a, b = (strategies[comparison[side]]["metrics"]["accuracy"]["value"] for side in "ab")
        assert abs(comparison["difference"] - (a - b)) < 1e-12
    page = (project / "out" / "report.html").read_text()
    assert all(name in page for name in ("plain-2-shot", "toy-prompt-tuning"))


def test_people_read_the_verdict_once_and_where_the_page_is(call: Any) -> None:
    ended = call("compare", "toy.yaml", "plain.prompt", *TINY, "--out", "out")
    assert ended.exit_code == 0, ended.stderr
    verdict = json.loads(Path("out/result.json").read_text())["verdict"]
    said = " ".join(ended.stdout.split())
    assert said.count(verdict) == 1
    assert "out/report.html is the report; out/result.json has the numbers." in said
    hint = "plain.prompt scores higher on dev calibrated; 'foreword prompts calibrate plain.prompt --task toy.yaml' "
    hint += "stores it."
    assert said.endswith(hint) == ("plain, calibrated" in said), "what was measured can be had"


def test_lora_is_trained_beside_the_prompts(call: Any, project: Path) -> None:
    given = ("toy.yaml", "plain.prompt", *TINY, "--out", "out", "--json")
    ended = call("compare", *given, "--lora", "--lora-steps", 3, "--lora-rank", 2)
    assert ended.exit_code == 0, ended.stderr
    [found] = [strategy for strategy in json.loads(ended.stdout)["strategies"] if strategy["kind"] == "lora"]
    assert found.keys() >= STRATEGY
    width, inner, keys, layers, rank = 32, 48, 16, 3, 2
    linear = [(width, width)] * 2 + [(width, keys)] * 2 + [(width, inner)] * 3  # q o, k v, gate up down
    assert found["trained_parameters"] == layers * sum(rank * (a + b) for a, b in linear)
    assert (found["name"], found["rows"]) == ("toy-lora", 40)
    page = (project / "out" / "report.html").read_text()
    assert all(text in page for text in ("Learning curves", "LoRA · rank 2, not merged", "<h3>toy-lora</h3>"))
    ended = call("compare", *given, "--lora-steps", 3)
    assert (ended.exit_code, ended.stderr) == (2, "foreword: --lora-steps is for --lora; add --lora\n")


def test_what_is_wrong_with_the_call_is_told(call: Any, project: Path) -> None:
    task = (project / "toy.yaml").read_text()
    (project / "closed.yaml").write_text(task.replace(", test: 20", ""))
    for given, said in (
        (("closed.yaml", "plain.prompt"), "task 'toy' has no test rows"),
        (("toy.yaml", "plain.prompt", "plain.prompt"), "two strategies are called 'plain'"),
        (
            ("toy.yaml", "plain.prompt", "--out", "rows.csv"),
            "cannot use the folder 'rows.csv': File exists; choose another --out",
        ),
    ):
        ended = call("compare", *given, *TINY)
        assert ended.exit_code in (1, 2)
        assert ended.stdout == ""
        assert ended.stderr.splitlines()[-1].startswith(f"foreword: {said}")
