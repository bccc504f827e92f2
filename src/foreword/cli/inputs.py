"""Reads a row from `--input name=value` options, and values from files. Knows prompts; knows no models."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreword.errors import UsageError

if TYPE_CHECKING:
    from foreword.prompts import Prompt

Inputs = Annotated[
    list[str],
    typer.Option("--input", "-i", help="name=value, name=@FILE or name=@- (stdin); @@ for an @ at the beginning."),
]
MAX_BYTES = 10_000_000
"""The most bytes of a file that an input is read from."""


def read_inputs(items: list[str]) -> dict[str, str]:
    """Return the row of all `--input` options; `@FILE` stands for the text of the file without its last line end.

    Raises UsageError, which names the input, if it is malformed, given twice or unreadable.
    """
    row: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--input {item!r}: write it as name=value")
        if name in row:
            raise UsageError(f"--input {name!r} is given twice; give every input once")
        row[name] = _value(name, value)
    return row


def parse_types(prompt: "Prompt", row: dict[str, str]) -> dict[str, object]:
    """Parse the values of inputs that a prompt declares as another type than string; they are written as JSON."""
    from foreword.prompts import read_value

    return {n: read_value(prompt.specs[n], n, text) if n in prompt.specs else text for n, text in row.items()}


def _value(name: str, written: str) -> str:
    try:
        written.encode()
    except UnicodeEncodeError:  # Python passes undecodable bytes on as lone surrogates
        raise UsageError(f"--input {name!r}: {written!r:.80} is not UTF-8") from None
    if written.startswith("@@"):
        return written[1:]
    return _read(name, written[1:]) if written.startswith("@") else written


def _read(name: str, source: str) -> str:
    try:
        with sys.stdin.buffer if source == "-" else Path(source).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name, or stdin read before
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--input {name!r}: cannot read {source!r}: {why}; for an @ at the beginning of a text, write '@@'"
        ) from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"--input {name!r}: {source!r} has more than {MAX_BYTES:,} bytes; shorten it")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError(f"--input {name!r}: {source!r} is not UTF-8") from None
