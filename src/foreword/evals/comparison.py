"""Comparison of strategies on the same test rows, with their cost per request: chooses on dev, reads test once.

Knows strategies, rows and scores; knows no page and no terminal.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from foreword.backbone import LanguageModel
from foreword.errors import ForewordError, UsageError
from foreword.evals.baselines import MAJORITY, majority, tfidf
from foreword.evals.choose import Candidate, evaluate_on_dev
from foreword.evals.report import render_report
from foreword.evals.result import Comparison, ResultData, StrategyResult
from foreword.evals.statistics import paired_difference
from foreword.evals.verdict import verdict
from foreword.files import write_atomic
from foreword.flows import Answers, Cost, Measured, PromptStrategy, Strategy, bind, measure
from foreword.listen import SILENT, Listener, counter
from foreword.prompts import Prompt
from foreword.tasks import Row, Task
from foreword.tuning import CurvePoint, Lora, Run, adapt, soft_name

LATENCY_ROWS = 15
"""The single requests that are timed per strategy, in turn over the strategies: a busy moment hits all of them."""


@dataclass(frozen=True)
class Result(ResultData):
    """A finished comparison that can be saved as a page or as JSON. `compare` makes one."""

    def save(self, path: str | Path) -> Path:
        """Write the report page (`.html`) or the machine-readable result (`.json`), and return the path.

        Raises UsageError if `path` ends in neither.
        """
        path = Path(path)
        if path.suffix.lower() == ".html":
            text = render_report(self)
        elif path.suffix.lower() == ".json":
            text = json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"
        else:
            raise UsageError(
                f"cannot save a result as {path.name!r}; name it .html for the report or .json for the data"
            )
        write_atomic(path, text.encode())
        return path


@dataclass(frozen=True)
class _Arm:
    """A strategy to be measured on test; a prompt is in the form that scored higher on dev."""

    strategy: Strategy
    detail: str
    calibrated: bool = False
    curve: tuple[CurvePoint, ...] = ()


def compare(
    model: LanguageModel,
    task: Task,
    strategies: Sequence[Answers | Run],
    *,
    lora: Lora | None = None,
    evaluated: Mapping[str, Candidate] | None = None,
    listener: Listener = SILENT,
    settings: Mapping[str, str | int | float] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Measure strategies on the test rows, with the baselines beside them.

    A strategy is a prompt, a finished run, a chain, a Python function that takes a row's inputs by keyword, or any
    other object of `foreword.flows.Strategy`. Prompts are reported as they are or calibrated, whichever scores higher
    on dev (`evaluated` holds, by name, those that were measured there before); the hard prompt that is best on dev is
    the reference that all others are compared with. With `lora`, adapters are trained behind that prompt's text and
    reported beside it; `model` is not changed.

    Raises ForewordError or UsageError, before anything is measured, if a strategy does not fit the task or the model.
    """
    if not task.test:
        raise ForewordError(f"task {task.name!r} has no test rows; give it some: 'split: {{test: 500}}'")
    bound = [bind(item.prompt if isinstance(item, Run) else item, model, task=task) for item in strategies]
    ours = {s.name for s, item in zip(bound, strategies, strict=True) if isinstance(item, Prompt | Run)}
    prompts = [s.prompt for s in bound if isinstance(s, PromptStrategy) and s.name in ours]
    hard = [prompt for prompt in prompts if prompt.soft is None]
    if lora is not None:
        lora.check(model)
        if not hard:
            raise UsageError("LoRA is trained behind the text of a hard prompt; compare one too")
    baselines, left_out = _make_baselines(task, {strategy.name for strategy in bound if strategy.kind == "baseline"})
    names = [strategy.name for strategy in [*bound, *(arm.strategy for arm in baselines)]]
    _check_names(names + [soft_name(task.name, "lora")] * (lora is not None))
    if len(hard) > 1 and not task.dev:
        raise ForewordError(
            f"task {task.name!r} has no dev rows to choose the best of {len(hard)} hard prompts on; give it some: "
            "'split: {dev: 200}', or compare one hard prompt"
        )
    for strategy in bound:
        for row in (*task.dev, *task.test):
            strategy.take(row.inputs, row.id)
    candidates = dict(evaluated or {})
    if task.dev:
        new = [prompt for prompt in prompts if prompt.name not in candidates]
        candidates |= {candidate.plain.name: candidate for candidate in evaluate_on_dev(model, task, new, listener)}
    dev_scores = {name: candidate.score for name, candidate in candidates.items()}
    best = max(hard, key=lambda prompt: dev_scores.get(prompt.name, 0.0), default=None)
    arms = baselines + [
        _arm(strategy, candidates.get(strategy.name) if strategy.name in ours else None, item)
        for strategy, item in zip(bound, strategies, strict=True)
    ]
    if lora is not None and best is not None:
        arms.append(_train_lora(lora, model, task, best, listener))
    measured = [measure(arm.strategy, task, task.test, counter(listener, f"{arm.strategy.name}: test")) for arm in arms]
    latency = _measure_latencies(task, [arm.strategy for arm in arms])
    result = build_result(
        task_name=task.name,
        backbone=model.name,
        seed=task.seed,
        metric=task.metric,
        rows=task.test,
        strategies=[_strategy_result(*each) for each in zip(arms, measured, latency, strict=True)],
        reference=best.name if best else MAJORITY,
        settings=settings,
    )
    power = _power_note(result)
    return replace(result, notes=(*task.notes, *([power] if power else []), *left_out, *notes))


def _make_baselines(task: Task, named: set[str]) -> tuple[list[_Arm], list[str]]:
    """Fit the baselines that are not `named` already; a note says why one of them is left out."""
    strategies, notes = [majority(task)], []
    if task.choices is not None:
        try:
            strategies.append(tfidf(task))
        except ForewordError as error:
            notes.append(f"TF-IDF is left out: {error}")
    return [_Arm(strategy, strategy.detail) for strategy in strategies if strategy.name not in named], notes


def _check_names(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two strategies are called {name!r}; rename one so that the table can tell them apart")


def _arm(strategy: Strategy, candidate: Candidate | None, item: Answers | Run) -> _Arm:
    """Return a prompt in its better form on dev; everything else as it is, for a strategy has a form of its own."""
    curve = item.curves if isinstance(item, Run) else ()
    if not isinstance(strategy, PromptStrategy) or not isinstance(item, Prompt | Run):
        return _Arm(strategy, strategy.detail)
    form = PromptStrategy(candidate.best, strategy.model) if candidate is not None else strategy
    return _Arm(form, _detail(form.detail, candidate), form.prompt.output.log_prior is not None, curve)


def _train_lora(lora: Lora, model: LanguageModel, task: Task, start: Prompt, listener: Listener) -> _Arm:
    """Train LoRA behind the text of `start`, then calibrate it if that scores higher on dev, as for every prompt."""
    adapted = adapt(lora.check(model), task, start, lora, listener)
    [candidate] = evaluate_on_dev(adapted.backbone, task, [adapted.prompt], listener) if task.dev else [None]
    cost = Cost(adapted.trained_parameters, adapted.prompt.labelled_rows)
    form = candidate.best if candidate else adapted.prompt
    strategy = PromptStrategy(form, adapted.backbone, kind="lora", cost=cost)
    detail = f"rank {lora.rank}, not merged, behind the text of {start.name}; {_detail(strategy.detail, candidate)}"
    calibrated = strategy.prompt.output.log_prior is not None
    return _Arm(strategy, detail, calibrated, adapted.curve)


def _detail(form: str, candidate: Candidate | None) -> str:
    if candidate is None or candidate.calibrated_score is None:
        return form
    return f"{form}; on dev {candidate.plain_score:.3f} as it is, {candidate.calibrated_score:.3f} calibrated"


def _measure_latencies(task: Task, strategies: Sequence[Strategy]) -> list[float]:
    """Time single requests; return each strategy's median in milliseconds, with a warm prefix cache as on a server."""
    times: list[list[float]] = [[] for _ in strategies]
    for i, row in enumerate(task.test[: LATENCY_ROWS + 1]):
        for samples, strategy in zip(times, strategies, strict=True):
            [result] = strategy.batch([strategy.take(row.inputs, row.id)])
            if i or len(task.test) == 1:  # the first one computes the shared prefix
                samples.append(1e3 * result.seconds)
    return [statistics.median(samples) for samples in times]


def _strategy_result(arm: _Arm, measured: Measured, ms: float) -> StrategyResult:
    usage, rows = measured.usage, len(measured.answers)
    return StrategyResult(
        name=arm.strategy.name,
        kind=arm.strategy.kind,
        predictions=measured.answers,
        scores=measured.scores,
        tokens_per_request=usage.prompt_tokens / rows,
        ms_per_request=ms,
        trained_parameters=arm.strategy.cost.trained_parameters,
        rows=arm.strategy.cost.labelled_rows,
        detail=arm.detail,
        calibrated=arm.calibrated,
        curve=arm.curve,
        computed_tokens_per_request=usage.computed_tokens / rows,
        calls_per_request=usage.calls / rows,
    )


def build_result(
    task_name: str,
    backbone: str,
    seed: int,
    metric: str,
    rows: Sequence[Row],
    strategies: Sequence[StrategyResult],
    reference: str,
    notes: Sequence[str] = (),
    settings: Mapping[str, str | int | float] | None = None,
) -> Result:
    """Compare every strategy with the one named `reference`, row by row, and write the verdict.

    Raises UsageError if a strategy does not score every row, if a score is not finite, or if a name is missing or used
    twice.
    """
    _check_scores(rows, strategies)
    result = Result(
        task_name, backbone, seed, metric, tuple(rows), tuple(strategies), (), "", reference, tuple(notes),
        dict(settings or {}),
    )  # fmt: skip
    base = result.strategy(reference)
    comparisons = tuple(_compare(s, base, metric, seed) for s in strategies if s is not base)
    result = replace(result, comparisons=comparisons)
    return replace(result, verdict=verdict(result))


def _compare(a: StrategyResult, b: StrategyResult, metric: str, seed: int) -> Comparison:
    d = paired_difference(a.scores, b.scores, seed)
    return Comparison(a.name, b.name, metric, d.value, d.low, d.high, d.p_value, d.test)


def _check_scores(rows: Sequence[Row], strategies: Sequence[StrategyResult]) -> None:
    names = [s.name for s in strategies]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"two strategies are named {min(duplicates)!r}; give each its own name")
    if not rows:
        raise UsageError("there are no test rows to compare on; give the task a test split")
    for s in strategies:
        for what, values in (("scores", s.scores), ("predictions", s.predictions)):
            if len(values) != len(rows):
                raise UsageError(f"strategy {s.name!r} has {len(values)} {what} for {len(rows)} test rows")
        for row, score in zip(rows, s.scores, strict=True):
            if not isfinite(score):
                raise UsageError(f"strategy {s.name!r} scores {score!r} on row {row.id!r}; a score must be finite")


def _power_note(result: Result) -> str | None:
    """Say which difference the test rows can show; None if scores are graded."""
    smallest, rows = result.smallest_difference, f"{len(result.rows):,} test rows"
    if smallest is None:
        return None
    if smallest == 1:
        return f"{rows} are too few to show any difference; give the task more."
    return f"{rows} can show a difference of about {100 * smallest:.1f} points (80 % power)."
