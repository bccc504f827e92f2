"""Batch calibration: a model's label bias, measured on unlabelled inputs and taken off (Zhou 2023).

Without it hard prompts look worse than they are: a small model may prefer one label whatever it reads.
"""

from collections.abc import Sequence

import numpy as np

from foreword.backbone import Backbone
from foreword.listen import SILENT, Listener, counter
from foreword.prompts import Output, Prompt
from foreword.tasks import Row

CALIBRATION_ROWS = 200
"""Unlabelled rows that a label bias is measured on."""


def calibrate(backbone: Backbone, prompt: Prompt, rows: Sequence[Row], listener: Listener = SILENT) -> Prompt:
    """`prompt` with `log_prior` set: the log of each choice's mean probability over the first 200 `rows`.

    Labels are not looked at. The prior is part of the prompt, so it is stored, served and read with it.
    """
    inputs = [prompt.take_texts(row.inputs, row.id) for row in rows[:CALIBRATION_ROWS]]
    likely = backbone.score(prompt, inputs, counter(listener, f"{prompt.name}: unlabelled rows")).comparable
    likely = likely - np.logaddexp.reduce(likely, axis=1, keepdims=True)
    prior = np.logaddexp.reduce(likely, axis=0) - np.log(len(likely))
    output = Output(choices=prompt.output.choices, log_prior=tuple(round(float(value), 4) for value in prior))
    return prompt.replace(output=output)
