"""What a comparison finds: the stable JSON shape, the numbers behind it, and a verdict for each way it can go."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scipy import stats

from foreword.errors import UsageError
from foreword.evals import Result, StrategyResult, build_result
from foreword.tasks import Row

N = 1000


def rows(n: int = N) -> tuple[Row, ...]:
    return tuple(Row(f"test:{i}", {"text": f"review {i}"}, "positive") for i in range(n))


def strategy(name: str, kind: str, right: set[int] | list[float]) -> StrategyResult:
    """A strategy that has these rows right, or these graded scores."""
    scores = tuple(float(i in right) for i in range(N)) if isinstance(right, set) else tuple(right)
    answers = tuple("positive" if score == 1 else "negative" for score in scores)
    return StrategyResult(name, kind, answers, scores, 61.5, 40.25, 9216 if kind == "soft" else 0, 500)  # type: ignore[arg-type]


def hard(right: int = 730) -> StrategyResult:
    return strategy("few-shot", "hard", set(range(right)))


def soft(name: str, gained: int, lost: int) -> StrategyResult:
    """Right where the hard prompt is, but for `lost` rows, and on `gained` more."""
    return strategy(name, "soft", set(range(lost, 730 + gained)))


def compare(*strategies: StrategyResult, metric: str = "accuracy") -> Result:
    n = len(strategies[0].scores)
    return build_result("films", "tiny", 7, metric, rows(n), strategies, strategies[0].name, ["a note"], {"threads": 2})


def test_the_json_is_the_stable_shape_with_numbers_that_scipy_confirms() -> None:
    data = json.loads(json.dumps(compare(hard(), soft("prompt tuning", 180, 50)).to_json()))
    assert list(data)[:6] == ["task", "backbone", "seed", "strategies", "comparisons", "verdict"]
    assert (data["task"], data["backbone"], data["seed"]) == ("films", "tiny", 7)
    first, second = data["strategies"]
    stable = ["name", "kind", "metrics", "tokens_per_request", "ms_per_request", "trained_parameters", "rows"]
    assert list(first)[:7] == stable
    assert (second["name"], second["kind"], second["trained_parameters"], second["rows"]) == (
        "prompt tuning", "soft", 9216, 500,
    )  # fmt: skip
    theirs = stats.binomtest(860, N).proportion_ci(method="wilson")
    assert second["metrics"] == {"accuracy": pytest.approx({"value": 0.86, "low": theirs.low, "high": theirs.high})}
    [comparison] = data["comparisons"]
    assert list(comparison) == ["a", "b", "metric", "difference", "low", "high", "p_value", "test"]
    assert (comparison["a"], comparison["b"], comparison["metric"]) == ("prompt tuning", "few-shot", "accuracy")
    assert comparison["difference"] == pytest.approx(0.13)
    assert comparison["low"] < 0.13 < comparison["high"]
    assert comparison["p_value"] == pytest.approx(stats.binomtest(50, 230).pvalue)
    assert comparison["test"] == "exact McNemar"
    assert (data["reference"], data["notes"], data["settings"]) == ("few-shot", ["a note"], {"threads": 2})


def test_a_clear_gain_is_said_with_its_interval() -> None:
    result = compare(hard(), soft("prompt tuning", 180, 50))
    found = result.comparisons[0]
    assert result.verdict == (
        "prompt tuning answers 86.0 % of 1,000 test rows correctly, 13.0 points more than the hard prompt, few-shot"
        f" (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f}, p < 0.001)."
    )


def test_no_difference_keeps_the_hard_prompt() -> None:
    verdict = compare(hard(), soft("prompt tuning", 58, 50)).verdict
    p = stats.binomtest(50, 108).pvalue
    assert verdict.startswith(
        "prompt tuning is not distinguishable from the hard prompt, few-shot: the difference is +0.8 points"
    )
    assert f"p = {p:.2f}); keep the hard prompt, it can be read and edited." in verdict


def test_a_loss_is_said_as_plainly() -> None:
    verdict = compare(hard(), soft("prompt tuning", 10, 60)).verdict
    assert "answers 68.0 % of 1,000 test rows correctly, 5.0 points less than the hard prompt, few-shot" in verdict
    assert verdict.endswith("keep the hard prompt, it can be read and edited.")


def test_several_soft_prompts_must_pass_holm() -> None:
    """A raw p of 0.033 each: enough alone, not when two were tried."""
    one, two = soft("prompt tuning", 37, 20), soft("p-tuning", 37, 20)
    p = stats.binomtest(20, 57).pvalue
    assert p < 0.05 < 2 * p
    assert "1.7 points more than" in compare(hard(), one).verdict
    verdict = compare(hard(), strategy("zero-shot", "hard", set()), one, two).verdict
    assert verdict.startswith(
        "No soft prompt is distinguishable from the best hard prompt, few-shot: the best of them,"
    )
    assert f"Holm-adjusted p = {2 * p:.3f}" in verdict
    worse = compare(hard(), soft("prompt tuning", 3, 0), soft("p-tuning", 0, 90)).verdict
    assert worse.startswith("No soft prompt is shown to be better than")


def test_a_baseline_that_beats_the_soft_prompt_is_named() -> None:
    tuned = soft("prompt tuning", 180, 50)
    verdict = compare(hard(), tuned, strategy("TF-IDF", "baseline", set(range(50, 960)))).verdict
    assert "But TF-IDF, which needs no language model, beats prompt tuning: 91.0 %, 5.0 points more" in verdict
    level = compare(hard(), tuned, strategy("TF-IDF", "baseline", set(range(45, 905)))).verdict
    assert "TF-IDF, which needs no language model, scores no less than prompt tuning: 86.0 %, not disting" in level
    below = compare(hard(), tuned, strategy("TF-IDF", "baseline", set(range(100, 900)))).verdict
    assert "TF-IDF" not in below
    narrow = [set(range(13, 890)), set(range(13, 890))]  # a raw p of 0.033 each
    assert (
        "TF-IDF, which needs no language model, beats"
        in compare(hard(), tuned, strategy("TF-IDF", "baseline", narrow[0])).verdict
    )
    two = compare(hard(), tuned, *(strategy(n, "baseline", rows) for n, rows in zip("AB", narrow, strict=True))).verdict
    assert "beats" not in two
    assert "Holm-adjusted" in two
    adapter = compare(hard(), tuned, strategy("LoRA", "lora", set(range(50, 960)))).verdict
    assert (
        "But LoRA, which needs an adapted copy of the weights, beats prompt tuning: 91.0 %, 5.0 points more" in adapter
    )


def test_a_comparison_without_soft_prompts_or_with_one_strategy_still_has_a_verdict() -> None:
    alone = compare(hard())
    assert alone.comparisons == ()
    low, high = (100 * limit for limit in stats.binomtest(730, N).proportion_ci(method="wilson"))
    assert alone.verdict == (
        f"few-shot answers 73.0 % of 1,000 test rows correctly (95 % interval {low:.1f} to {high:.1f});"
        " no soft prompt was compared."
    )
    assert "But zero-shot beats few-shot" in compare(hard(), strategy("zero-shot", "hard", set(range(900)))).verdict


def test_graded_scores_are_not_written_as_percent() -> None:
    base = [(i % 11) / 10 for i in range(110)]
    better = [min(1.0, score + 0.05) for score in base]
    result = compare(strategy("few-shot", "hard", base), strategy("tuned", "soft", better), metric="f1")
    mean, gap = sum(better) / 110, (sum(better) - sum(base)) / 110
    assert result.verdict.startswith(f"tuned scores {mean:.3f} F1 over 110 test rows, {gap:.3f} more than")
    assert result.comparisons[0].test == "paired sign-flip permutation"
    interval = result.intervals["tuned"]
    spread = 1.96 * stats.sem(better)
    assert (interval.low, interval.high) == pytest.approx((mean - spread, mean + spread), abs=0.01)


def test_the_table_shows_the_numbers_of_the_json() -> None:
    result = compare(hard(), replace(soft("[bold]tuned[/bold]", 180, 50), tokens_per_request=7.25))
    console = Console(width=160)
    with console.capture() as capture:
        console.print(result.table())
    text = capture.get()
    for s in result.to_json()["strategies"]:
        value = s["metrics"]["accuracy"]
        assert f"{100 * value['value']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})" in text
    assert "+13.0 (p < 0.001)" in text
    assert all(shown in text for shown in ("[bold]tuned[/bold]", "reference", "9,216", "7.2", "500"))


def test_saving_goes_by_the_suffix(tmp_path: Path) -> None:
    result = compare(hard(), soft("prompt tuning", 180, 50))
    path = result.save(tmp_path / "deep" / "result.json")
    assert json.loads(path.read_text()) == result.to_json()
    assert result.save(str(tmp_path / "report.html")).read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(UsageError, match=r"'result.csv'; name it .html"):
        result.save(tmp_path / "result.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "report.html"]


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        ([hard(), hard()], "two strategies are named 'few-shot'"),
        ([hard(), replace(hard(), name="x", scores=(1.0,))], "'x' has 1 scores for 1000 test rows"),
        ([hard(), replace(hard(), name="x", predictions=())], "'x' has 0 predictions for 1000 test rows"),
        ([replace(hard(), scores=(1.0,) * 999 + (float("nan"),))], "scores nan on row 'test:999'"),
        ([replace(hard(), name="other")], "no strategy 'few-shot' in this result; it has other"),
    ],
)
def test_what_cannot_be_compared_is_refused(strategies: list[StrategyResult], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_result("films", "tiny", 7, "accuracy", rows(), strategies, "few-shot")


def test_no_test_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="no test rows"):
        build_result("films", "tiny", 7, "accuracy", (), [hard()], "few-shot")
