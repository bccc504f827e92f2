"""The pages of the reference that the code writes: commands, Python, methods, HTTP, metrics, the house, the changelog.

`make docs` runs it before the site is built. What it writes is not kept in git, so it cannot grow old.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from typer.cli import get_docs_for_click
from typer.core import TyperGroup
from typer.main import get_command

import foreword

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "foreword"
PAGES = ROOT / "docs" / "reference"


def cli() -> str:
    """Every verb with its options, from the typer app."""
    from foreword.cli.app import app

    command = get_command(app)
    assert isinstance(command, TyperGroup)
    context = command.make_context("foreword", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="foreword").split("\n", 1)[1]
    for verb in verbs(command):  # the list of a group's verbs shortens what they do
        text = text.replace(
            f"* `{verb.name}`: {verb.get_short_help_str()}\n", f"* `{verb.name}`: {verb.get_short_help_str(300)}\n"
        )
    return f"# Command line\n\nWhat `--help` says, for all verbs.\n{text}"


def verbs(group: TyperGroup) -> Iterator[Any]:
    """All that stand under a command, at any depth."""
    for verb in group.commands.values():
        yield verb
        if isinstance(verb, TyperGroup):
            yield from verbs(verb)


def python() -> str:
    """The public face: every name of `foreword.__all__`."""
    parts = ["# Python", "`import foreword as fw`: these names, and no others, are the public face."]
    kinds = {"Classes": inspect.isclass, "Functions": inspect.isfunction}
    for title, fits in kinds.items():
        parts.append(f"## {title}")
        parts += [f"::: foreword.{name}" for name in foreword.__all__ if fits(getattr(foreword, name))]
    return "\n\n".join(parts)


def rooms() -> str:
    """What each room exports beyond the public face."""
    parts = [
        "# Rooms of the package",
        "What a room offers is its `__init__`. Names of the [public face](python.md) are left out here. These may "
        "change from one version to the next, and the [changelog](changelog.md) says so.",
    ]
    public = {id(getattr(foreword, name)) for name in foreword.__all__}
    for path in sorted(SOURCE.glob("*/__init__.py")):
        room = import_module(f"foreword.{path.parent.name}")
        names = [name for name in getattr(room, "__all__", ()) if id(getattr(room, name)) not in public]
        if path.parent.name == "cli" or not names:
            continue
        parts += [f"## foreword.{path.parent.name}", str(room.__doc__).strip()]
        parts += [f"::: foreword.{path.parent.name}.{name}" for name in names]
    return "\n\n".join(parts)


def methods() -> str:
    """What `METHODS` holds, as a table."""
    from foreword.tuning.methods import METHODS

    rows = "\n".join(f"| `{name}` | {method.trains} | {method.when} |" for name, method in METHODS.items())
    return f"""# Methods

`foreword tune --method NAME`, `fw.tune(…, method="NAME")`.

| method | trains | choose it when |
|---|---|---|
{rows}

P is the number of [virtual tokens](../glossary.md#virtual-tokens), D the width of an embedding, L and H the model's
layers and their key-value heads, S the length of the longest row, T the number of tasks. Those with T take several
tasks at once: [tune many tasks](../how-to/many-tasks.md). [Choose a method](../how-to/choose-a-method.md) says which
three to know. Packages may add methods: entry points of the group `foreword.methods`.
"""


def metrics() -> str:
    """Scores of answers, and what a server tells Prometheus."""
    from foreword.tasks.metrics import METRICS

    scores = "\n".join(f"| `{name}` | {first_line(metric.__doc__)} |" for name, metric in METRICS.items())
    helps = re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\w+)", exposition(), re.MULTILINE)
    served = "\n".join(f"| `{name}` | {kind} | {text} |" for name, text, kind in helps if not name.endswith("_created"))
    return f"""# Metrics

## Of answers

A task's `metric` scores one prediction against one target, from 0 to 1; means and intervals are made of that.

| `metric` | |
|---|---|
{scores}

Packages may add metrics: entry points of the group `foreword.metrics`.

## Of a server

`GET /metrics`, for Prometheus. Where a metric is a prompt's, its label `prompt` holds `name:version`; after 200 prompts
further ones count as `other`.

| name | type | |
|---|---|---|
{served}
"""


def exposition() -> str:
    """The page that Prometheus reads, of a server at rest."""
    from foreword.serve.engines.seam import Stats
    from foreword.serve.http.metrics import Metrics

    return Metrics(lambda: Stats(*[0] * len(inspect.signature(Stats).parameters)), 1).text().decode()


def http() -> str:
    """The routes, from the server's own OpenAPI document."""
    from foreword.serve.http.app import make_app

    document = make_app(Mock()).openapi()
    parts = [
        "# HTTP API",
        f"{document['info']['description']} A running server has this as OpenAPI at `/openapi.json`. How to ask, "
        "stream and watch: [serve prompts](../how-to/serve.md).",
    ]
    for path, of_path in document["paths"].items():
        for verb, route in of_path.items():
            parts.append(f"## {verb.upper()} {path}\n\n{route.get('description') or route.get('summary', '')}")
            schema = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if schema:
                parts.append(fields(resolved(schema, document), document))
    return "\n\n".join(parts)


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document["components"]["schemas"][schema["$ref"].split("/")[-1]] if "$ref" in schema else schema


def fields(body: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """The fields of a request's body, as a table."""
    rows = ["| field | type | |", "|---|---|---|"]
    for name, schema in body.get("properties", {}).items():
        needed = "**needed**" if name in body.get("required", ()) else ""
        default = schema.get("default")
        default = f"default `{json.dumps(default, ensure_ascii=False)}`" if default not in (None, [], {}) else ""
        notes = "; ".join(part for part in (needed, schema.get("description", ""), default) if part)
        rows.append(f"| `{name}` | {kind(schema, document)} | {notes} |")
    return "\n".join(rows)


def kind(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """A field's type, in a few words."""
    if "$ref" in schema:
        named = resolved(schema, document)
        return " or ".join(f"`{value}`" for value in named["enum"]) if "enum" in named else "object"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        said = dict.fromkeys(kind(option, document) for option in options if option.get("type") != "null")
        return " or ".join(said)
    if schema.get("type") == "array":
        return f"list of {kind(schema.get('items', {}), document)}"
    return str(schema.get("type", "any"))


def house() -> str:
    """Every module with the first sentence of its docstring: the file tree."""
    parts = [
        "# The house",
        "Every folder is a noun that a user knows, every file one idea. This page is made from the docstrings. Rooms "
        "stand on floors; nothing imports upwards, and `tests/test_house.py` holds that.",
    ]
    ground = [path for path in sorted(SOURCE.glob("*.py")) if path.name != "__init__.py"]
    parts.append("## The ground floor\n\n" + "\n".join(line(path, SOURCE) for path in ground))
    for room in sorted(path.parent for path in SOURCE.glob("*/__init__.py")):
        docs = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        inside = "\n".join(line(path, room) for path in modules(room))
        parts.append(f"## {room.name}/\n\n{' '.join(docs.split())}\n\n{inside}")
    return "\n\n".join(parts)


def modules(room: Path) -> Iterator[Path]:
    """Files before folders, by name."""
    found = [path for path in room.rglob("*.py") if path != room / "__init__.py" and "versions" not in path.parts]
    yield from sorted(found, key=lambda path: (len(path.relative_to(room).parts), path))


def line(path: Path, room: Path) -> str:
    name = path.relative_to(room).as_posix().replace("/__init__.py", "/")
    return f"- `{name}`: {first_line(ast.get_docstring(ast.parse(path.read_text())))}"


def first_line(docstring: str | None) -> str:
    """The first sentence; every paragraph begins with one."""
    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s(?=[A-Z`])", paragraph)[0].replace("|", "\\|")


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


def main() -> None:
    """Write all of them, each where its text has changed."""
    for make in (cli, python, rooms, methods, metrics, http, house, changelog):
        page = PAGES / f"{make.__name__}.md"
        text = f"{make().strip()}\n"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


if __name__ == "__main__":
    main()
