"""The `.prompt` file: YAML front matter, then a Jinja body; vectors beside it in safetensors.

`Prompt.from_text` puts the parts together, and `template` reads the body. Knows what may stand in these files; knows
neither prompts nor models.
"""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from foreword.errors import ForewordError
from foreword.files import read_text, write_atomic
from foreword.forms import validation_message
from foreword.prompts.examples import Examples
from foreword.prompts.inputs import MAX_INPUTS, Input
from foreword.prompts.schema import checked
from foreword.prompts.soft import MAX_VECTOR_BYTES, SoftTokens
from foreword.prompts.template import MAX_TEMPLATE
from foreword.yaml_text import read_yaml, write_yaml

SUFFIXES = (".prompt", ".txt", ".jinja")
"""Of a file that is a prompt without front matter."""


class Output(BaseModel):
    """What the answer may be: free text, one of `choices`, or JSON that fits a `schema`."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)
    choices: tuple[str, ...] | None = None
    log_prior: tuple[FiniteFloat, ...] | None = None
    """Per choice, nats: the model's label bias, taken off before choosing (Zhou 2023, batch calibration)."""
    json_schema: Annotated[dict[str, Any], AfterValidator(checked)] | None = Field(default=None, alias="schema")
    """A part of JSON Schema (`prompts.schema`); written `schema`, as in the file and in `Output(schema=…)`."""

    @model_validator(mode="after")
    def _fits(self) -> "Output":
        choices = self.choices
        if choices is not None and (len(choices) < 2 or len(set(choices)) < len(choices) or not all(choices)):
            raise ValueError(f"choices must be at least two different, non-empty texts, not {list(choices)}")
        if self.log_prior is not None and len(self.log_prior) != len(choices or ()):
            raise ValueError("log_prior needs one number per choice")
        if choices is not None and self.json_schema is not None:
            raise ValueError("an answer has 'choices' or a 'schema', not both")
        return self


class Pin(BaseModel):
    """What a reference stood for, as the front matter has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int | None = Field(default=None, ge=1)
    digest: str = Field(pattern="^[0-9a-f]{64}$")


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


def to_text(front: FrontMatter, body: str) -> str:
    """The file's text in canonical form: fields in one order, defaults left out, line ends as Jinja reads them."""
    head: dict[str, Any] = {"name": front.name}
    if front.description:
        head["description"] = front.description
    if front.labelled_rows:
        head["labelled_rows"] = front.labelled_rows
    if front.inputs is not None:
        head["inputs"] = {
            name: spec.model_dump(mode="json", exclude_defaults=True) for name, spec in front.inputs.items()
        }
    if front.includes:
        head["includes"] = {ref: pin.model_dump(exclude_none=True) for ref, pin in front.includes.items()}
    if output := front.output.model_dump(mode="json", exclude_defaults=True):
        head["output"] = output
    if front.examples is not None:
        head["examples"] = front.examples.model_dump(mode="json", exclude_defaults=True)
    return f"---\n{write_yaml(head)}---\n{line_ends(body)}\n"


def read_front_matter(text: str, source: str) -> tuple[FrontMatter, str]:
    """What a file's text says before the prompt, and the prompt's body; `source` is named in errors.

    Raises ForewordError that names the field at fault, and where the text is too long.
    """
    if len(text) > 2 * MAX_TEMPLATE:
        raise ForewordError(f"{source!r} has {len(text):,} characters, {2 * MAX_TEMPLATE:,} at most")
    head, body = split_front_matter(text, source)
    try:
        return FrontMatter.model_validate(read_yaml(head, source)), body
    except ValidationError as error:
        raise ForewordError(validation_message(repr(source), error, FrontMatter)) from error


def line_ends(text: str) -> str:
    """`text` with a line feed at the end of every line, as Jinja reads it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_front_matter(text: str, source: str) -> tuple[str, str]:
    """The YAML between the two lines `---`, empty where there is none, and the text behind it."""
    text = line_ends(text.removeprefix("\ufeff"))
    if not text.startswith("---\n"):
        return "", text.removesuffix("\n")
    head, fence, body = text[3:].partition("\n---\n")
    if not fence:
        raise ForewordError(f"{source!r}: the front matter does not end; close it with a line '---'")
    return head, body.removesuffix("\n")


def read_file(path: Path) -> str:
    """The text of a prompt file. Raises ForewordError where it cannot be read, is no prompt, or holds nothing."""
    if not os.path.lexists(path):
        raise ForewordError(f"no prompt file {str(path)!r}; look at the path")
    text = read_text(path, "prompt file")
    head, body = split_front_matter(text, str(path))
    if not head and path.suffix not in SUFFIXES:  # rows of data, say
        raise ForewordError(
            f"{str(path)!r} is no prompt file; a prompt ends in {', '.join(SUFFIXES)}, or begins with front matter"
        )
    if not body.strip():
        raise ForewordError(f"{str(path)!r} is empty; write the prompt {'below its front matter' if head else 'there'}")
    return text


def write_files(path: Path, text: str, soft: SoftTokens | None) -> None:
    """Write a prompt's text to `path` and its vectors beside it, or remove those that stood there.

    Vectors go first: a reader never meets a body whose vectors are not there yet. Raises ForewordError when a
    safetensors file of that name is no soft prompt: a model's weights, say, stay untouched.
    """
    tensors = path.with_suffix(".safetensors")
    try:
        read_vectors(tensors)
    except ForewordError as error:
        raise ForewordError(f"{error}; saving here would replace it, so choose another name") from error
    if soft is not None:
        write_atomic(tensors, soft.to_bytes())
    write_atomic(path, text.encode())
    if soft is None:
        tensors.unlink(missing_ok=True)


def read_vectors(path: Path) -> SoftTokens | None:
    """A prompt's vectors, fp32; None where there is no such file. Raises ForewordError where it holds others."""
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_VECTOR_BYTES:
            raise ForewordError(f"{str(path)!r} is larger than {MAX_VECTOR_BYTES:,} bytes; that is no soft prompt")
        return SoftTokens.from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise ForewordError(f"cannot read {str(path)!r}: {error}") from error
