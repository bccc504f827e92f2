"""`foreword run`: one prompt, one row, one answer."""

from dataclasses import asdict
from typing import Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import (
    DEFAULT_BACKBONE,
    BackboneName,
    Dtype,
    TableUrl,
    find_prompt,
    load_model,
    read_inputs,
    typed,
)


def run(
    prompt: Annotated[str, typer.Argument(help="A .prompt file or a name in the table.")],
    inputs: Annotated[list[str], typer.Option("--input", "-i", help="name=value; once per variable.")] = [],  # noqa: B006
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    stop: Annotated[list[str], typer.Option(help="Stop before this text; may be given more than once.")] = [],  # noqa: B006
    seed: int = 0,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
) -> None:
    """Run a prompt on one row; prints {"text", "value", "usage"} as JSON."""
    from foreword.backbone import Sampling
    from foreword.table import PromptTable

    chosen = find_prompt(prompt, PromptTable.open(table))
    row = typed(chosen, read_inputs(inputs))
    chosen.render(row)  # a wrong input is told before a model is loaded
    with Display() as display:
        model = load_model(backbone, dtype, display)
        answer = model.answer(chosen, [row], Sampling(max_tokens, temperature, top_p, tuple(stop), seed))[0]
    usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.answer_tokens}
    shown = {"text": answer.text, "value": answer.value, "usage": usage}
    print_json(shown | ({"cuts": [asdict(cut) for cut in answer.cuts]} if answer.cuts else {}))
