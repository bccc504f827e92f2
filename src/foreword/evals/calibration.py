"""Batch calibration: a model's leaning to some labels, measured on unlabelled inputs and taken off (Zhou 2023).

Without it hard prompts look worse than they are: a small model may prefer one label whatever it reads.
"""

from collections.abc import Sequence

import numpy as np

from foreword.backbone import Backbone
from foreword.backbone.answer import OnRows
from foreword.prompts import Output, Prompt
from foreword.tasks import Row

ROWS = 200
"""Unlabelled rows that a leaning is measured on."""


def calibrate(backbone: Backbone, prompt: Prompt, rows: Sequence[Row], on_rows: OnRows | None = None) -> Prompt:
    """`prompt` with `log_prior` set: the log of each choice's mean probability over the first 200 `rows`.

    Labels are not looked at. The prior is part of the prompt, so it is stored, served and read with it.
    """
    inputs = [prompt.take_texts(row.inputs, row.id) for row in rows[:ROWS]]
    likely = backbone.score(prompt, inputs, on_rows).comparable
    likely = likely - np.logaddexp.reduce(likely, axis=1, keepdims=True)
    prior = np.logaddexp.reduce(likely, axis=0) - np.log(len(likely))
    output = Output(choices=prompt.output.choices, log_prior=tuple(round(float(value), 4) for value in prior))
    return prompt.replace(output=output)
