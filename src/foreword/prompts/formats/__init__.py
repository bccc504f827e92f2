"""Prompts as other programs keep them: a format reads a text into a prompt, writes one, and says what is lost."""

import json
import re
from pathlib import Path
from typing import Protocol

from foreword.errors import ForewordError, UsageError
from foreword.prompts.formats import dotprompt, fstring, jinja, langchain, mlflow, openai, prompty
from foreword.prompts.formats import text as text_format
from foreword.prompts.formats.common import MAX_BYTES, MAX_FILE, Losses
from foreword.prompts.formats.inline import inlined
from foreword.prompts.prompt import Prompt
from foreword.registry import Registry

__all__ = ["FORMATS", "MAX_BYTES", "Format", "Losses", "format_of", "guess", "guess_for", "read", "write"]
SUFFIXES = {".prompty": "prompty", ".jinja": "jinja", ".jinja2": "jinja", ".j2": "jinja", ".txt": "text"}


class Format(Protocol):
    """The seam: a module, or any object, with these two functions."""

    def read(self, text: str, name: str, /) -> tuple[Prompt, Losses]:
        """A prompt, called `name` where the text gives none, and what of the text it does not hold, a phrase each.

        Raises ForewordError that says what is wrong with the text, and in which line.
        """

    def write(self, prompt: Prompt, /) -> tuple[str, Losses]:
        """The text of a prompt, which includes no other, and what of the prompt it does not hold, a phrase each.

        Raises ForewordError where the format cannot hold such a prompt.
        """


def _is_format(made: object) -> bool:
    return callable(getattr(made, "read", None)) and callable(getattr(made, "write", None))


FORMATS: Registry[Format] = Registry(
    "foreword.formats",
    {
        "dotprompt": dotprompt, "fstring": fstring, "jinja": jinja, "langchain": langchain, "mlflow": mlflow,
        "openai": openai, "prompty": prompty, "text": text_format,
    },
    _is_format,
)  # fmt: skip
"""By the name that `--format` takes; other packages add theirs by an entry point in `foreword.formats`. What a file is
is guessed among the built-in ones alone, so that a broken package harms no other format.
"""


def format_of(name: str) -> Format:
    """The format of that name. Raises UsageError, or ForewordError where a package's format cannot be used."""
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; there are {', '.join(FORMATS)}, and peft for folders")
    return FORMATS[name]


def read(text: str, form: str, name: str, source: str) -> tuple[Prompt, Losses]:
    """Reads `text`; an error names `source`."""
    try:
        return format_of(form).read(text, name)
    except UsageError:
        raise
    except ForewordError as error:
        raise ForewordError(f"{source!r} as {form}: {error}") from error


def write(prompt: Prompt, form: str) -> tuple[str, Losses]:
    """The text of `prompt` in a format, and what is lost. Raises ForewordError where it cannot be."""
    text, losses = format_of(form).write(inlined(prompt))
    if prompt.includes:
        losses = [*losses, f"the includes {', '.join(map(repr, prompt.includes))}: their text is written out"]
    if prompt.examples is not None:
        losses = [*losses, "the rows of 'examples': whoever renders it has to give them"]
    return text, losses


def guess(text: str, path: Path) -> str:
    """The format of a file, by its ending and then its content. Raises UsageError where that is not clear."""
    suffix = path.suffix.lower()
    if suffix == ".json" and (found := _json_format(text)):
        return found
    if suffix == ".prompt":
        if re.search(r"\{\{[#/]|\{\{\s*role\s|^(input|model|config)\s*:", text, re.MULTILINE):
            return "dotprompt"
        raise UsageError(f"{str(path)!r} looks like a prompt file of Foreword's own: 'foreword prompts add' takes it")
    if suffix in SUFFIXES and not (suffix == ".txt" and "{" in text):
        return SUFFIXES[suffix]
    raise UsageError(f"the format of {str(path)!r} is not clear; say which it is: --format {'|'.join(FORMATS)}")


def guess_for(path: Path) -> str:
    """The format to write to `path`, by its ending; `peft` for a folder. Raises UsageError where that is not clear."""
    suffix = path.suffix.lower()
    if not suffix or path.is_dir():
        return "peft"
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    own = ", or 'foreword prompts show' for Foreword's own" if suffix == ".prompt" else ""
    raise UsageError(f"{str(path)!r} does not say which format it shall be: --format {'|'.join(FORMATS)}{own}")


def _json_format(text: str) -> str | None:
    try:
        found = json.loads(text[:MAX_FILE])
    except (ValueError, RecursionError):
        return None
    if isinstance(found, list) or (isinstance(found, dict) and "messages" in found and "_type" not in found):
        return "openai"
    if isinstance(found, dict):
        if "lc" in found or "_type" in found:
            return "langchain"
        if "template" in found or "tags" in found:
            return "mlflow"
    return None
