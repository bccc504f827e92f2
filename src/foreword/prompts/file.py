"""The `.prompt` file: YAML front matter, then a Jinja body; vectors beside it in safetensors. Knows no models."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foreword.errors import ForewordError
from foreword.files import write_atomic
from foreword.forms import misfit
from foreword.prompts.examples import Examples
from foreword.prompts.includes import Pin, Resolve, read_partials
from foreword.prompts.inputs import MAX_INPUTS, Input, compiled
from foreword.prompts.prompt import Output, Prompt
from foreword.prompts.soft import MAX_BYTES, SoftTokens
from foreword.prompts.template import MAX_TEMPLATE, included
from foreword.yaml_text import read_yaml, write_yaml

SUFFIXES = (".prompt", ".txt", ".jinja")
"""Of a file that is a prompt without front matter."""


class FrontMatter(BaseModel):
    """All fields are optional; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = None
    description: str = ""
    labelled_rows: int = Field(0, ge=0)
    inputs: dict[str, Input] | None = Field(default=None, max_length=MAX_INPUTS)
    output: Output = Output()
    examples: Examples | None = None
    includes: dict[str, Pin] = {}


def to_text(prompt: Prompt) -> str:
    """Canonical form: fields in one order, defaults left out, line ends as Jinja reads them."""
    head: dict[str, Any] = {"name": prompt.name}
    if prompt.description:
        head["description"] = prompt.description
    if prompt.labelled_rows:
        head["labelled_rows"] = prompt.labelled_rows
    if prompt.inputs is not None:
        head["inputs"] = {
            name: spec.model_dump(mode="json", exclude_defaults=True) for name, spec in prompt.inputs.items()
        }
    head |= _pins(prompt)
    if output := prompt.output.model_dump(mode="json", exclude_defaults=True):
        head["output"] = output
    if prompt.examples is not None:
        head["examples"] = prompt.examples.model_dump(mode="json", exclude_defaults=True)
    return f"---\n{write_yaml(head)}---\n{line_ends(prompt.body)}\n"


def _pins(prompt: Prompt) -> dict[str, Any]:
    """What the prompt includes, in the body's order; nothing where it includes nothing."""
    if not prompt.includes:
        return {}
    refs = included(prompt.body, prompt.name)
    pins = {ref: prompt.includes[ref].pin.model_dump(exclude_none=True) for ref in refs}
    return {"includes": pins} if pins else {}


def from_text(
    text: str,
    source: str,
    name: str | None = None,
    soft: SoftTokens | None = None,
    resolve: Resolve | None = None,
    folder: Path | None = None,
) -> Prompt:
    """Read a `.prompt` file's text; `source` is named in errors, `name` is used where the file gives none.

    `resolve` gives the prompts that it includes. Examples are read from files in `folder`, and nowhere without one.
    """
    if len(text) > 2 * MAX_TEMPLATE:
        raise ForewordError(f"{source!r} has {len(text):,} characters, {2 * MAX_TEMPLATE:,} at most")
    head, body = split_front(text, source)
    try:
        front = FrontMatter.model_validate(read_yaml(head, source))
    except ValidationError as error:
        raise ForewordError(misfit(repr(source), error, FrontMatter)) from error
    if (chosen := front.name or name) is None:
        raise ForewordError(f"{source!r} has no 'name'; add one to its front matter")
    partials = read_partials(body, source, front.includes, resolve)
    examples = front.examples.embedded(folder, source) if front.examples is not None else None
    return Prompt(
        chosen, body, front.inputs, front.output, soft, front.description, front.labelled_rows, partials, examples
    )


def line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_front(text: str, source: str) -> tuple[str, str]:
    text = line_ends(text.removeprefix("\ufeff"))
    if not text.startswith("---\n"):
        return "", text.removesuffix("\n")
    head, fence, body = text[3:].partition("\n---\n")
    if not fence:
        raise ForewordError(f"{source!r}: the front matter does not end; close it with a line '---'")
    return head, body.removesuffix("\n")


def load(path: Path, resolve: Resolve | None = None) -> Prompt:
    """Read a prompt and, where it stands beside it, its safetensors file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ForewordError(f"no prompt file {str(path)!r}; look at the path") from None
    except UnicodeDecodeError as error:
        raise ForewordError(f"{str(path)!r} is no text in UTF-8, so no prompt") from error
    except OSError as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    head, body = split_front(text, str(path))
    if not head and path.suffix not in SUFFIXES:  # rows of data, say
        raise ForewordError(
            f"{str(path)!r} is no prompt file; a prompt ends in {', '.join(SUFFIXES)}, or begins with front matter"
        )
    if not body.strip():
        raise ForewordError(f"{str(path)!r} is empty; write the prompt {'below its front matter' if head else 'there'}")
    vectors = _vectors(path.with_suffix(".safetensors"))
    prompt = from_text(text, str(path), path.stem.lower(), vectors, resolve, path.parent)
    for pattern in prompt.patterns:  # whoever writes it hears of it here; a stored one is made when it is needed
        compiled(pattern)
    return prompt


def save(prompt: Prompt, path: Path) -> None:
    """Vectors first: a reader never meets a body whose vectors are not there yet.

    Raises ForewordError when a safetensors file of that name is no soft prompt: a model's weights, say, stay untouched.
    """
    tensors = path.with_suffix(".safetensors")
    try:
        _vectors(tensors)
    except ForewordError as error:
        raise ForewordError(f"{error}; saving here would replace it, so choose another name") from error
    if prompt.soft is not None:
        write_atomic(tensors, prompt.soft.to_bytes())
    write_atomic(path, to_text(prompt).encode())
    if prompt.soft is None:
        tensors.unlink(missing_ok=True)


def _vectors(path: Path) -> SoftTokens | None:
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_BYTES:
            raise ForewordError(f"{str(path)!r} is larger than {MAX_BYTES:,} bytes; that is no soft prompt")
        return SoftTokens.from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error}") from error
