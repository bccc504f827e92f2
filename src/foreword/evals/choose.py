"""Choice on dev between a prompt as it is and the prompt calibrated. Knows dev rows; knows no test rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from foreword.backbone import Backbone, LanguageModel
from foreword.errors import ForewordError
from foreword.evals.calibration import calibrate
from foreword.flows import PromptStrategy, measure
from foreword.listen import SILENT, Listener, counter
from foreword.prompts import Prompt
from foreword.tasks import Task


@dataclass(frozen=True)
class Candidate:
    """A prompt in both forms, as it is and calibrated, with the dev score of each."""

    plain: Prompt
    calibrated: Prompt | None
    """None if there is nothing to calibrate: free text, a remote model, or a prompt that already has a prior."""
    plain_score: float
    calibrated_score: float | None

    @property
    def best(self) -> Prompt:
        """Return the form that scores higher on dev; the prompt as it is if they are equal."""
        better = self.calibrated_score is not None and self.calibrated_score > self.plain_score
        return self.calibrated if better and self.calibrated is not None else self.plain

    @property
    def score(self) -> float:
        """Return the dev score of the better form."""
        return max(self.plain_score, self.calibrated_score or 0.0)


def evaluate_on_dev(
    model: LanguageModel, task: Task, prompts: Sequence[Prompt], listener: Listener = SILENT
) -> list[Candidate]:
    """Measure `prompts` on dev, as they are and calibrated; one candidate for each, in the order given.

    Soft prompts have a label bias too, if a smaller one. Raises ForewordError if the task has no dev rows.
    """
    if not task.dev:
        raise ForewordError(f"task {task.name!r} has no dev rows to choose on; give it some: 'split: {{dev: 200}}'")
    return [_evaluate(model, task, prompt.answering(task.choices), listener) for prompt in prompts]


def _evaluate(model: LanguageModel, task: Task, prompt: Prompt, listener: Listener) -> Candidate:
    on_rows, choices = counter(listener, f"{prompt.name}: dev"), prompt.output.choices
    if not isinstance(model, Backbone) or choices is None or prompt.output.log_prior is not None:
        measured = measure(PromptStrategy(prompt, model), task, task.dev, on_rows)
        return Candidate(prompt, None, measured.mean, None)
    inputs = [prompt.take_texts(row.inputs, row.id) for row in task.dev]
    scores = model.score(prompt, inputs, on_rows)  # scored once: the two forms differ in the choice alone
    calibrated = calibrate(model, prompt, task.train, listener)

    def mean_score(form: Prompt) -> float:
        answers = [choices[k] for k in scores.choose(form.output.log_prior)]
        return sum(task.score(answers, task.dev)) / len(task.dev)

    return Candidate(prompt, calibrated, mean_score(prompt), mean_score(calibrated))
