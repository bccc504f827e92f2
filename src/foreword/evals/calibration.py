"""Batch calibration: measures a model's label bias on unlabelled inputs and subtracts it (Zhou 2023).

Without it hard prompts look worse than they are: a small model may prefer one label whatever it reads. Knows prompts
and log-likelihoods; knows no scores.
"""

from collections.abc import Sequence

import numpy as np

from foreword.backbone import Backbone
from foreword.listen import SILENT, Listener, counter
from foreword.prompts import Output, Prompt
from foreword.tasks import Row

CALIBRATION_ROWS = 200
"""The most unlabelled rows that a label bias is measured on."""


def calibrate(backbone: Backbone, prompt: Prompt, rows: Sequence[Row], listener: Listener = SILENT) -> Prompt:
    """Return `prompt` with `log_prior` set: the log of each choice's mean probability over the first 200 `rows`.

    Labels are not used. The prior is a field of the prompt, so it is stored and served with it.
    """
    inputs = [prompt.take_texts(row.inputs, row.id) for row in rows[:CALIBRATION_ROWS]]
    log_likelihoods = backbone.score(prompt, inputs, counter(listener, f"{prompt.name}: unlabelled rows")).comparable
    log_probabilities = log_likelihoods - np.logaddexp.reduce(log_likelihoods, axis=1, keepdims=True)
    prior = np.logaddexp.reduce(log_probabilities, axis=0) - np.log(len(log_probabilities))
    output = Output(choices=prompt.output.choices, log_prior=tuple(round(float(value), 4) for value in prior))
    return prompt.replace(output=output)
