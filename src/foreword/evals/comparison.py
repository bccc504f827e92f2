"""Strategies side by side on the same test rows. Chooses on dev, opens test once, measures what a request costs."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from foreword.backbone import LanguageModel
from foreword.errors import ForewordError, UsageError
from foreword.evals.baselines import majority, tfidf
from foreword.evals.choose import Candidate, OnStage, weigh
from foreword.evals.lora import Lora, adapt
from foreword.evals.result import Result, StrategyResult, build_result
from foreword.prompts import Prompt
from foreword.prompts.prompt import expect
from foreword.tasks import Task
from foreword.tuning import CurvePoint, Run
from foreword.tuning.lesson import soft_name

LATENCY_ROWS = 15
"""Single requests that are timed, in turn over the strategies, so that a busy moment hits all of them."""


@dataclass(frozen=True)
class _Arm:
    """A strategy as it is measured."""

    model: LanguageModel
    prompt: Prompt
    """In the form that did better on dev."""
    kind: Literal["hard", "soft", "lora"]
    trained_parameters: int
    curve: tuple[CurvePoint, ...]
    detail: str


def compare(
    model: LanguageModel,
    task: Task,
    strategies: Sequence[Prompt | Run],
    *,
    lora: Lora | None = None,
    weighed: Mapping[str, Candidate] | None = None,
    on_stage: OnStage | None = None,
    settings: Mapping[str, str | int | float] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Measure prompts and finished runs on the test rows, with the baselines beside them.

    Prompts are reported as they are or calibrated, whichever did better on dev (those in `weighed` have been through
    that already); the hard prompt that is best on dev is the reference that all others are compared with.
    With `lora`, adapters are trained behind that prompt's text and reported beside it; `model` stays as it is.
    """
    if not task.test:
        raise ForewordError(f"task {task.name!r} has no test rows; give it some: 'split: {{test: 500}}'")
    prompts = [item.prompt if isinstance(item, Run) else expect(item).answering(task.choices) for item in strategies]
    hard = [prompt for prompt in prompts if prompt.soft is None]
    if lora is not None:
        lora.check(model)
        if not hard:
            raise UsageError("LoRA is trained behind the text of a hard prompt; compare one too")
    _check_names([prompt.name for prompt in prompts] + [soft_name(task.name, "lora")] * (lora is not None))
    for prompt in prompts:
        model.check(prompt)  # before anything is measured
    if len(hard) > 1 and not task.dev:
        raise ForewordError(
            f"task {task.name!r} has no dev rows to choose the best of {len(hard)} hard prompts on; give it some: "
            "'split: {dev: 200}', or compare one hard prompt"
        )
    known = dict(weighed or {})
    if task.dev:
        new = [prompt for prompt in prompts if prompt.name not in known]
        known |= {candidate.plain.name: candidate for candidate in weigh(model, task, new, on_stage)}
    best = max(hard, key=lambda prompt: known[prompt.name].score if prompt.name in known else 0.0, default=None)
    arms = [_arm(model, item, prompt, known.get(prompt.name)) for item, prompt in zip(strategies, prompts, strict=True)]
    if lora is not None and best is not None:
        arms.append(_adapted(lora, model, task, best, on_stage))
    baselines, left_out = _baselines(task)
    answered = [_answer(task, arm, on_stage) for arm in arms]
    latency = _latencies(task, arms)
    results = [
        _result(task, arm, predictions, tokens, latency[arm.prompt.name])
        for arm, (predictions, tokens) in zip(arms, answered, strict=True)
    ]
    result = build_result(
        task_name=task.name,
        backbone=model.name,
        seed=task.seed,
        metric=task.metric,
        rows=task.test,
        strategies=[*baselines, *results],
        reference=(best or baselines[0]).name,
        settings=settings,
    )
    power = _power_note(result)
    return replace(result, notes=(*task.notes, *([power] if power else []), *left_out, *notes))


def _baselines(task: Task) -> tuple[list[StrategyResult], list[str]]:
    """The baselines, and a note where one of them cannot be had."""
    if task.choices is None:
        return [majority(task)], []
    try:
        return [majority(task), tfidf(task)], []
    except ForewordError as error:
        return [majority(task)], [f"TF-IDF is left out: {error}"]


def _check_names(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two strategies are called {name!r}; rename one so that the table can tell them apart")


def _arm(model: LanguageModel, item: Prompt | Run, prompt: Prompt, candidate: Candidate | None) -> _Arm:
    form = candidate.best if candidate else prompt
    curve: tuple[CurvePoint, ...] = item.curves if isinstance(item, Run) else ()
    if form.soft is None:
        return _Arm(model, form, "hard", 0, curve, _form(form, candidate))
    detail = f"{form.soft.method}, {form.virtual_tokens} virtual tokens; {_form(form, candidate)}"
    return _Arm(model, form, "soft", form.soft.trained_parameters, curve, detail)


def _adapted(lora: Lora, model: LanguageModel, task: Task, start: Prompt, on_stage: OnStage | None) -> _Arm:
    """LoRA trained behind `start`, then offered calibration as every prompt is."""
    found = adapt(lora.check(model), task, start, lora, on_stage)
    [candidate] = weigh(found.backbone, task, [found.prompt], on_stage) if task.dev else [None]
    form = candidate.best if candidate else found.prompt
    detail = f"rank {lora.rank}, not merged, behind the text of {start.name}; {_form(form, candidate)}"
    return _Arm(found.backbone, form, "lora", found.trained_parameters, found.curve, detail)


def _form(prompt: Prompt, candidate: Candidate | None) -> str:
    form = "calibrated" if prompt.output.log_prior else "as it is"
    if candidate is None or candidate.calibrated_score is None:
        return form
    return f"{form}; on dev {candidate.plain_score:.3f} as it is, {candidate.calibrated_score:.3f} calibrated"


def _answer(task: Task, arm: _Arm, on_stage: OnStage | None) -> tuple[tuple[str, ...], float]:
    """Answers to the test rows, and the mean tokens that were read per row."""
    prompt = arm.prompt

    def on_rows(done: int, total: int) -> None:
        if on_stage:
            on_stage(f"{prompt.name}: test", done, total)

    answers = arm.model.answer(prompt, [prompt.take_texts(row.inputs, row.id) for row in task.test], on_rows=on_rows)
    return tuple(answer.text for answer in answers), statistics.mean(answer.prompt_tokens for answer in answers)


def _latencies(task: Task, arms: Sequence[_Arm]) -> dict[str, float]:
    """Median milliseconds of one request alone, its front computed beforehand as a server does."""
    times: dict[str, list[float]] = {arm.prompt.name: [] for arm in arms}
    for i, row in enumerate(task.test[: LATENCY_ROWS + 1]):
        for arm in arms:
            inputs = arm.prompt.take_texts(row.inputs, row.id)
            began = time.perf_counter()
            arm.model.answer(arm.prompt, [inputs])
            if i or len(task.test) == 1:  # the first one computes the front
                times[arm.prompt.name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def _result(task: Task, arm: _Arm, predictions: tuple[str, ...], tokens: float, ms: float) -> StrategyResult:
    return StrategyResult(
        name=arm.prompt.name,
        kind=arm.kind,
        predictions=predictions,
        scores=tuple(task.score(predictions, task.test)),
        tokens_per_request=tokens,
        ms_per_request=ms,
        trained_parameters=arm.trained_parameters,
        rows=arm.prompt.labelled_rows,
        detail=arm.detail,
        calibrated=arm.prompt.output.log_prior is not None,
        curve=arm.curve,
    )


def _power_note(result: Result) -> str | None:
    """What the test rows can show, where answers are right or wrong."""
    shown, rows = result.smallest_difference, f"{len(result.rows):,} test rows"
    if shown is None:
        return None
    if shown == 1:
        return f"{rows} are too few to show any difference; give the task more."
    return f"{rows} can show a difference of about {100 * shown:.1f} points (80 % power)."


def save(result: Result, folder: Path) -> tuple[Path, Path]:
    """Write `report.html` and `result.json`."""
    return result.save(folder / "report.html"), result.save(folder / "result.json")
