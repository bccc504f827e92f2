"""`foreword serve`: serves every prompt of the table on one backbone over HTTP, and manages the server's API keys."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.cli.console import Display, print_json
from foreword.cli.shared import DEFAULT_BACKBONE, BackboneName, Dtype, Json, TableUrl
from foreword.errors import UsageError

if TYPE_CHECKING:
    from foreword.flows import Chain, Function, Strategy
    from foreword.prompts import Prompt

app = typer.Typer(help="Serve every prompt of the table over an OpenAI-compatible HTTP API.")
keys_app = typer.Typer(no_args_is_help=True, help="Add, list and remove the API keys of a server.")
app.add_typer(keys_app, name="keys")
KeyFile = Annotated[Path, typer.Option("--keys", help="File of API keys.")]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of API keys; with it every request needs one.")] = None,
    grace: Annotated[
        float, typer.Option(min=1.0, help="Seconds to finish accepted requests after a stop signal.")
    ] = 30.0,
    timeout: Annotated[float, typer.Option(min=1.0, help="Maximum seconds for an answer.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens that a request may ask for.")] = 1024,
    max_body: Annotated[int, typer.Option(min=1024, help="Maximum bytes of a request body.")] = 1024 * 1024,
    cors: Annotated[
        list[str], typer.Option(help="Origin of web pages that may call the server; may be repeated.")
    ] = [],  # noqa: B006
    embeddings: Annotated[
        str | None, typer.Option(help="Folder of a sentence-transformers model, for /v1/embeddings.")
    ] = None,
    strategy: Annotated[
        list[str],
        typer.Option(help="A chain's .yaml file or FILE.py:FUNCTION, served under its own name; may be repeated."),
    ] = [],  # noqa: B006
    engine: Annotated[
        str, typer.Option(help="Inference engine: local, vllm if it is installed, or one that a package adds.")
    ] = "local",
    engine_option: Annotated[
        list[str], typer.Option(help="NAME=VALUE for the engine, such as an argument of vLLM; may be repeated.")
    ] = [],  # noqa: B006
    backbone: BackboneName = DEFAULT_BACKBONE,
    dtype: Dtype = "auto",
    table: TableUrl = None,
) -> None:
    """Serve every prompt of the table over HTTP. Ctrl-C or SIGTERM finishes accepted requests, then stops."""
    if context.invoked_subcommand is not None:
        return
    from foreword.jobs import find_runnable
    from foreword.serve import (
        Keys,
        Limits,
        address,
        check_engine,
        make_engine,
        make_service,
        open_socket,
        run_server,
        serve_as_named,
    )
    from foreword.table import find_table

    check_engine(engine)
    options = _parse_options(engine, engine_option)
    allowed = Keys(keys) if keys is not None else None
    bound = open_socket(host, port, allowed)
    with bound, Display() as display:
        prompts = find_table(table)
        strategies = serve_as_named([_servable(find_runnable(ref, prompts), ref) for ref in strategy], prompts)
        limits = Limits(body_bytes=max_body, max_tokens=max_tokens, seconds=timeout)
        embedder = None
        if embeddings is not None:  # raises on a wrong folder before a model is loaded
            from foreword.backbone import SentenceEmbedder
            from foreword.serve import EmbeddingQueue

            embedder = EmbeddingQueue(SentenceEmbedder.load(embeddings))
        model, runner = make_engine(engine, backbone, dtype, options, display)
        app, service = make_service(model, runner, prompts, allowed, limits, cors, strategies)
        service.embedder = embedder
        where = address(bound)
        display.say(f"Serving at {where}/v1. " + ("" if allowed else "No keys: only this machine may send requests."))
        run_server(app, service, bound, grace)


def _servable(item: "Prompt | Chain | Strategy", ref: str) -> "Chain | Function":
    from foreword.flows import Chain, Function

    if not isinstance(item, Chain | Function):
        raise UsageError(f"--strategy {ref!r} is no chain and no function; a prompt is served once it is in the table")
    return item


def _parse_options(engine: str, items: list[str]) -> dict[str, object]:
    """Parse the options of an engine: a value is JSON if it parses as JSON, else text."""
    if items and engine == "local":
        raise UsageError(f"--engine-option {items[0]!r}: --engine local has none; --engine vllm takes vLLM's arguments")
    options: dict[str, object] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--engine-option {item!r}: write NAME=VALUE, such as max_model_len=8192")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


@keys_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name of the key's owner, which the log shows.")],
    keys: KeyFile = Path("keys.json"),
    scope: Annotated[list[str], typer.Option(help="use or admin; repeat it for both.")] = ["use"],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Make a key and print it. It is shown only once: the file holds its hash."""
    from foreword.serve import add_key

    unknown = [name for name in scope if name not in ("use", "admin")]
    if unknown:
        raise UsageError(f"scope {unknown[0]!r}: choose use or admin")
    key = add_key(keys, name, tuple(dict.fromkeys(scope)))  # type: ignore[arg-type]
    if as_json:
        print_json({"name": name, "scopes": scope, "key": key, "file": str(keys)})
    else:
        print(key)


@keys_app.command("list")
def list_keys(keys: KeyFile = Path("keys.json"), as_json: Json = False) -> None:
    """List the keys: owner, scopes and time of creation."""
    from foreword.serve import read_keys

    listed = [key.model_dump(mode="json", exclude={"sha256"}) for key in read_keys(keys)]
    if as_json:
        print_json({"keys": listed})
        return
    for key in listed:
        print(f"{key['name']}\t{','.join(key['scopes'])}\t{key['created']}")


@keys_app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name that the key was added with.")], keys: KeyFile = Path("keys.json")
) -> None:
    """Remove a key; a running server refuses it at once."""
    from foreword.serve import remove_key

    remove_key(keys, name)
