"""What a prompt is: a template whose pieces are text, variables and virtual tokens. Knows nothing of models."""

from foreword.prompts.budget import Cut
from foreword.prompts.diff import Diff, diff
from foreword.prompts.examples import Examples
from foreword.prompts.few_shot import few_shot
from foreword.prompts.file import Output
from foreword.prompts.inputs import Input
from foreword.prompts.pieces import Piece, Text, Turn, Virtual
from foreword.prompts.prompt import Partial, Prompt, Resolve
from foreword.prompts.soft import SoftTokens

__all__ = [
    "Cut",
    "Diff",
    "Examples",
    "Input",
    "Output",
    "Partial",
    "Piece",
    "Prompt",
    "Resolve",
    "SoftTokens",
    "Text",
    "Turn",
    "Virtual",
    "diff",
    "few_shot",
]
