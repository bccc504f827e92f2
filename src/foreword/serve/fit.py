"""Whether a prompt can run on a backbone, checked before an engine sees its vectors. Knows tensors; knows no HTTP."""

import torch

from foreword.backbone import Backbone
from foreword.errors import ForewordError
from foreword.prompts import Prompt


def check(backbone: Backbone, prompt: Prompt) -> None:
    """Raises ForewordError for vectors of another backbone or shape, or that its dtype cannot hold.

    A value that is finite in fp32 can be infinite in bfloat16, and one such row could spoil a whole batch.
    """
    backbone.check(prompt)
    for name, array in prompt.soft.tensors.items() if prompt.soft is not None else ():
        if not torch.from_numpy(array).to(backbone.dtype).isfinite().all():
            dtype = str(backbone.dtype).removeprefix("torch.")
            raise ForewordError(
                f"{name!r} of prompt {prompt.name!r} is not finite in {dtype}: tune it again, or load the backbone in "
                "float32"
            )
