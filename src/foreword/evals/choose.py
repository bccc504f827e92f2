"""Which form of which prompt to report: each as it is and calibrated, the best on dev. Never looks at test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foreword.backbone import Backbone, LanguageModel
from foreword.errors import ForewordError
from foreword.evals.calibration import calibrate
from foreword.prompts import Prompt
from foreword.tasks import Task

OnStage = Callable[[str, int, int], None]
"""Called with (what is being done, rows done, rows in all)."""


@dataclass(frozen=True)
class Candidate:
    """A prompt and how it does on dev, in both forms."""

    plain: Prompt
    calibrated: Prompt | None
    """None where there is nothing to calibrate: free text, a remote model, or a prior of the prompt's own."""
    plain_score: float
    calibrated_score: float | None

    @property
    def best(self) -> Prompt:
        """The form that does better on dev; as it is where they are equal."""
        better = self.calibrated_score is not None and self.calibrated_score > self.plain_score
        return self.calibrated if better and self.calibrated is not None else self.plain

    @property
    def score(self) -> float:
        return max(self.plain_score, self.calibrated_score or 0.0)


def weigh(
    model: LanguageModel, task: Task, prompts: Sequence[Prompt], on_stage: OnStage | None = None
) -> list[Candidate]:
    """Measure `prompts` on dev, in the order given. Soft prompts lean to a label too, if less than hard ones."""
    if not task.dev:
        raise ForewordError(f"task {task.name!r} has no dev rows to choose on; give it some: 'split: {{dev: 200}}'")
    return [_weigh(model, task, prompt.answering(task.choices), on_stage) for prompt in prompts]


def _weigh(model: LanguageModel, task: Task, prompt: Prompt, on_stage: OnStage | None) -> Candidate:
    def tell(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_stage(f"{prompt.name}: {what}", done, total) if on_stage else None

    def mean(predictions: Sequence[str]) -> float:
        return sum(task.score(predictions, task.dev)) / len(task.dev)

    inputs = [prompt.take_texts(row.inputs, row.id) for row in task.dev]
    choices = prompt.output.choices
    if not isinstance(model, Backbone) or choices is None or prompt.output.log_prior is not None:
        answers = model.answer(prompt, inputs, on_rows=tell("dev"))
        return Candidate(prompt, None, mean([answer.text for answer in answers]), None)
    scores = model.score(prompt, inputs, tell("dev"))  # read once: the two forms differ in the choice alone
    calibrated = calibrate(model, prompt, task.train, tell("unlabelled rows"))
    plain, fair = ([choices[k] for k in scores.choose(form.output.log_prior)] for form in (prompt, calibrated))
    return Candidate(prompt, calibrated, mean(plain), mean(fair))
