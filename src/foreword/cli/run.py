"""`foreword run`: answers one row with a prompt, a chain or a Python function."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.inputs import Inputs, parse_types, read_inputs
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl
from foreword.errors import ForewordError

if TYPE_CHECKING:
    from foreword.flows import Result


def run(
    prompt: Annotated[
        str, typer.Argument(help="A .prompt file, a name in the table, a chain's .yaml file, or FILE.py:FUNCTION.")
    ],
    inputs: Inputs = [],  # noqa: B006
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of tokens to generate. [default: 64; 512 for JSON with a schema]"),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Sample from the most likely tokens of this total probability.")
    ] = 1.0,
    stop: Annotated[list[str], typer.Option(help="Stop before this text; may be given more than once.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,  # noqa: ARG001 - it prints nothing else
) -> None:
    """Answer one row; print {"text", "value", "usage"} as JSON, for a chain also "ms" and "steps".

    If the answer is not of the form that the prompt asks for, "value" is null and the exit code is 1.
    """
    from foreword.backbone import Sampling
    from foreword.flows import Chain, Strategy, bind, check
    from foreword.jobs import find_runnable, load_model
    from foreword.prompts import Prompt
    from foreword.table import find_table

    row: dict[str, Any] = {**read_inputs(inputs)}
    chosen = find_runnable(prompt, find_table(table))
    if isinstance(chosen, Prompt):
        row = parse_types(chosen, row)
    check(chosen, row)  # raises on a wrong input before a model is loaded
    if isinstance(chosen, Strategy):
        [result] = chosen.batch([row])
    else:
        with Display() as display:
            sampling = Sampling(max_tokens, temperature, top_p, tuple(stop), seed)
            strategy = bind(chosen, load_model(backbone, dtype, display), sampling=sampling)
        [result] = strategy.batch([row])
    document = _document(result)
    if isinstance(chosen, Chain):
        prompts = {step.name: step.prompt.name for step in chosen.steps}
        document["ms"] = _ms(result)
        document["steps"] = [
            {"name": name, "prompt": prompts[name], **_document(step), "ms": _ms(step)}
            for name, step in result.steps.items()
        ]
    print_json(document)
    if result.problem is not None:
        raise ForewordError(result.problem)


def _document(result: "Result[Any]") -> dict[str, Any]:
    usage = {"prompt_tokens": result.usage.prompt_tokens, "completion_tokens": result.usage.completion_tokens}
    document = {"text": result.text, "value": result.parsed, "usage": usage}
    return document | ({"cuts": [asdict(cut) for cut in result.cuts]} if result.cuts else {})


def _ms(result: "Result[Any]") -> float:
    return round(1_000 * result.seconds, 1)
