"""Whether a prompt can run on a backbone, checked before an engine sees its vectors. Knows tensors; knows no HTTP."""

import math

import torch

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.prompts import Prompt


def check(backbone: Backbone, prompt: Prompt, largest: float = math.inf) -> None:
    """Raises ForewordError for vectors of another backbone or shape, or that its dtype cannot hold.

    A value that is finite in fp32 can be infinite in bfloat16, and one such row could spoil a whole batch. Nor may any
    lie beyond ±`largest`.
    """
    backbone.check(prompt)
    for name, array in prompt.soft.tensors.items() if prompt.soft is not None else ():
        tensor = torch.from_numpy(array).to(backbone.dtype)
        if not tensor.isfinite().all():
            dtype = str(backbone.dtype).removeprefix("torch.")
            raise ForewordError(
                f"{name!r} of prompt {prompt.name!r} is not finite in {dtype}: tune it again, or load the backbone in "
                "float32"
            )
        if tensor.abs().max() > largest:
            raise ForewordError(
                f"{name!r} of prompt {prompt.name!r} holds numbers beyond ±{largest:,.0f}, which could spoil other "
                "prompts' answers: tune it again"
            )
