"""A prompt as it would be served with what has been learned so far, and how it does on dev. Knows no training."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from foreword.backbone import Backbone
from foreword.prompts import Prompt, SoftTokens
from foreword.tasks import Row, Task


def served(
    backbone: Backbone, prompt: Prompt, tensors: Mapping[str, Tensor], method: str, trained: int, run: str = ""
) -> Prompt:
    """`prompt` with these vectors, `trained` numbers having been trained to make them."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return prompt.replace(soft=SoftTokens(arrays, backbone.name, backbone.fingerprint, method, run, trained))


def dev_score(backbone: Backbone, task: Task, prompt: Prompt, rows: Sequence[Row]) -> float:
    """The task's metric over `rows`, in their units of 0 to 1."""
    answers = backbone.answer(prompt, [prompt.take_texts(row.inputs, row.id) for row in rows])
    scores = task.score([answer.text for answer in answers], rows)
    return sum(scores) / len(scores)
