"""`foreword run`: one prompt, chain or Python function, one row, one answer."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.inputs import Inputs, read_inputs, typed
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl
from foreword.errors import ForewordError

if TYPE_CHECKING:
    from foreword.flows import Result


def run(
    prompt: Annotated[
        str, typer.Argument(help="A .prompt file, a name in the table, a chain's .yaml file, or FILE.py:FUNCTION.")
    ],
    inputs: Inputs = [],  # noqa: B006
    max_tokens: Annotated[int | None, typer.Option(min=1, help="64, or 512 for JSON by a schema.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    stop: Annotated[list[str], typer.Option(help="Stop before this text; may be given more than once.")] = [],  # noqa: B006
    seed: int = 0,
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
    as_json: Json = False,  # noqa: ARG001 - it prints nothing else
) -> None:
    """Run a prompt on one row; prints {"text", "value", "usage"} as JSON. A chain's has "ms" and "steps" besides.

    Where the answer is not what the prompt asks for, "value" is null, and the exit code is 1.
    """
    from foreword.backbone import Sampling
    from foreword.flows import Chain, Function, bind, check
    from foreword.jobs import find_runnable, load_model
    from foreword.prompts import Prompt
    from foreword.table import find_table

    row: dict[str, Any] = {**read_inputs(inputs)}
    chosen = find_runnable(prompt, find_table(table))
    if isinstance(chosen, Prompt):
        row = typed(chosen, row)
    check(chosen, row)  # a wrong input is told before a model is loaded
    if isinstance(chosen, Function):
        [result] = chosen.batch([row])
    else:
        with Display() as display:
            sampling = Sampling(max_tokens, temperature, top_p, tuple(stop), seed)
            strategy = bind(chosen, load_model(backbone, dtype, display), sampling=sampling)
        [result] = strategy.batch([row])
    document = _document(result)
    if isinstance(chosen, Chain):
        called = {step.name: step.prompt.name for step in chosen.steps}
        document["ms"] = _ms(result)
        document["steps"] = [
            {"name": name, "prompt": called[name], **_document(step), "ms": _ms(step)}
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
