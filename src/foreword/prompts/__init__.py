"""What a prompt is: a template whose pieces are text, variables and virtual tokens. Knows nothing of models."""

from foreword.prompts import formats, peft, schema
from foreword.prompts.budget import Cut, estimated_spans, fit_budgets
from foreword.prompts.diff import Diff, diff, rendered, visible
from foreword.prompts.examples import Examples
from foreword.prompts.few_shot import few_shot
from foreword.prompts.file import Output
from foreword.prompts.inputs import Input, read_value
from foreword.prompts.lint import Finding, beginnings, lint_text
from foreword.prompts.pieces import Marks, Piece, Text, Turn, Virtual, pieces_text
from foreword.prompts.prompt import ANY_INPUT, PROMPT_NAME, Partial, Prompt, Resolve, expect_prompt
from foreword.prompts.samples import SAMPLE_TEXT, sample
from foreword.prompts.soft import MAX_VECTOR_BYTES, SoftTokens
from foreword.prompts.template import (
    MAX_INCLUDE_DEPTH,
    MAX_INCLUDES,
    MAX_TEMPLATE,
    RESERVED_NAMES,
    Template,
    included,
    new_environment,
)
from foreword.prompts.vector_diff import SoftDiff, Token, vector_facts

__all__ = [
    "ANY_INPUT",
    "MAX_INCLUDES",
    "MAX_INCLUDE_DEPTH",
    "MAX_TEMPLATE",
    "MAX_VECTOR_BYTES",
    "PROMPT_NAME",
    "RESERVED_NAMES",
    "SAMPLE_TEXT",
    "Cut",
    "Diff",
    "Examples",
    "Finding",
    "Input",
    "Marks",
    "Output",
    "Partial",
    "Piece",
    "Prompt",
    "Resolve",
    "SoftDiff",
    "SoftTokens",
    "Template",
    "Text",
    "Token",
    "Turn",
    "Virtual",
    "beginnings",
    "diff",
    "estimated_spans",
    "expect_prompt",
    "few_shot",
    "fit_budgets",
    "formats",
    "included",
    "lint_text",
    "new_environment",
    "peft",
    "pieces_text",
    "read_value",
    "rendered",
    "sample",
    "schema",
    "vector_facts",
    "visible",
]
