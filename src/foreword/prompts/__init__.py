"""What a prompt is: a template whose pieces are text, variables and virtual tokens. Knows nothing of models."""

from foreword.prompts.diff import Diff, diff
from foreword.prompts.few_shot import few_shot
from foreword.prompts.pieces import Piece, Text, Turn, Virtual
from foreword.prompts.prompt import Input, Output, Prompt
from foreword.prompts.soft import SoftTokens

__all__ = ["Diff", "Input", "Output", "Piece", "Prompt", "SoftTokens", "Text", "Turn", "Virtual", "diff", "few_shot"]
