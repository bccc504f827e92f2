"""Options that several verbs share. Knows no jobs."""

from typing import Annotated

import typer

BackboneName = Annotated[
    str,
    typer.Option("--backbone", "-b", help="Backbone: built-in name, folder, .gguf file, hub id, or openai:URL#model."),
]
Dtype = Annotated[
    str, typer.Option(help="auto, float32 or bfloat16; auto takes bfloat16 if the machine computes faster in it.")
]
TableUrl = Annotated[str | None, typer.Option("--table", help="Prompt table: a .db file or a database URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
DEFAULT_BACKBONE = "smollm2-135m"
