"""A chain: prompts called one after the other, each with what the ones before it have said. Knows no models.

The file is YAML, its expressions are templates in the language that prompts are written in. A chain calls prompts and
no chains, so it ends after as many calls as it has steps.
"""

import difflib
import json
import os.path
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from jinja2 import nodes
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from foreword.errors import ForewordError, UsageError
from foreword.files import read_text
from foreword.forms import validation_message
from foreword.prompts import Prompt, Text
from foreword.prompts.prompt import PROMPT_NAME
from foreword.prompts.template import RESERVED_NAMES, Template, new_environment
from foreword.table import PromptTable
from foreword.yaml_text import read_yaml

MAX_STEPS = 20

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
"""What a template can name."""


@dataclass(frozen=True)
class Step:
    """One call of a prompt."""

    name: str
    prompt: Prompt
    expressions: Mapping[str, Template]
    """What the prompt's inputs are made of: templates over the chain's inputs and the values of earlier steps."""

    def inputs(self, values: Mapping[str, object]) -> dict[str, object]:
        """The prompt's inputs. One that is declared as another type than string is read as JSON."""
        return {name: self._input(name, template, values) for name, template in self.expressions.items()}

    def _input(self, name: str, template: Template, values: Mapping[str, object]) -> object:
        text = ""
        for piece in template.render({variable: values[variable] for variable in template.variables}):
            if not isinstance(piece, Text):
                raise ForewordError(f"{template.name!r}: an expression makes a text; turns stand in the prompt itself")
            text += piece.text
        spec = self.prompt.specs.get(name)
        if spec is None or spec.type == "string":
            return text
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ForewordError(
                f"{template.name!r} must give a value of type {spec.type}, not {text!r:.80}; write {{{{ … | tojson }}}}"
            ) from error


@dataclass(frozen=True)
class Chain:
    """Steps in order; the answer is that of the step `output`. Made by `Chain.load`, run by `Program(chain, model)`."""

    name: str
    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    output: str

    @staticmethod
    def load(path: str | Path, table: PromptTable | None = None) -> "Chain":
        """Read a chain and every prompt that it calls: from the table (the user's own where none is given), or, where
        `call` ends in `.prompt`, from a file in the chain's folder.

        Raises ForewordError or UsageError that names the file, the step and what is wrong; nothing is run.
        """
        path = Path(path)
        return _build(_read(path), path, table)

    @property
    def last(self) -> Prompt:
        """The prompt of the step that answers."""
        return next(step.prompt for step in self.steps if step.name == self.output)

    def ending(self, prompt: Prompt) -> "Chain":
        """This chain with another prompt in the step that answers."""
        steps = [replace(step, prompt=prompt) if step.name == self.output else step for step in self.steps]
        return replace(self, steps=tuple(steps))

    def answering(self, choices: tuple[str, ...] | None) -> "Chain":
        """This chain for a task with these choices, as `Prompt.answering`. Raises UsageError where it has others."""
        try:
            return self.ending(self.last.answering(choices))
        except UsageError as error:
            raise UsageError(f"chain {self.name!r}, step {self.output!r}: {error}") from error

    def take(self, row: Mapping[str, object], where: str) -> dict[str, object]:
        """The inputs of this chain out of a row that may hold more."""
        for name in self.inputs:
            if name not in row:
                raise UsageError(f"{where}: chain {self.name!r} needs the input {name!r}; the row has {list(row)}")
        return {name: row[name] for name in self.inputs}


# The file


class _StepForm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    call: str = Field(max_length=500)
    name: Word = Field(alias="as")
    expressions: dict[str, str] = Field(default={}, alias="with")


class _ChainForm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str | None = Field(default=None, pattern=rf"^(?:{PROMPT_NAME.pattern})$")
    inputs: list[Word] = []
    steps: list[_StepForm] = Field(min_length=1, max_length=MAX_STEPS)
    output: Word


def _read(path: Path) -> _ChainForm:
    if not os.path.lexists(path):
        raise ForewordError(f"no chain file {str(path)!r}; look at the path")
    content = read_yaml(read_text(path, "chain file"), str(path))
    if isinstance(content, dict) and "steps" not in content and {"data", "target"} & set(content):
        raise UsageError(
            f"{str(path)!r} is a task file, not a chain; name a prompt to run, or 'foreword compare {path} PROMPT'"
        )
    try:
        return _ChainForm.model_validate(content)
    except ValidationError as error:
        raise ForewordError(validation_message(f"chain file {str(path)!r}", error, _ChainForm)) from error


def _build(form: _ChainForm, path: Path, table: PromptTable | None) -> Chain:
    name, known = form.name or path.stem, list(form.inputs)

    def refuse(step: str, what: str) -> NoReturn:
        raise UsageError(f"{str(path)!r}, step {step!r}: {what}")

    for word in [*known, *(step.name for step in form.steps)]:
        if word in RESERVED_NAMES:
            raise UsageError(f"{str(path)!r}: {word!r} has a meaning in templates; choose another name")
    steps: list[Step] = []
    fields: dict[str, list[str]] = {}  # of the JSON that a step answers, where its schema names them
    for step in form.steps:
        if step.name in known:
            refuse(step.name, "this name is taken by an input or an earlier step; give it another with 'as'")
        try:
            prompt = _find(step.call, path, table)
        except ForewordError as error:
            raise type(error)(f"{str(path)!r}, step {step.name!r}: {error}") from error
        templates = {key: Template(text, f"{name}.{step.name}.{key}") for key, text in step.expressions.items()}
        for key, template in templates.items():
            if key not in prompt.variables and key not in prompt.specs:
                refuse(step.name, f"prompt {prompt.name!r} has no input {key!r}; {_near(key, prompt.variables)}")
            if template.places:
                refuse(step.name, f"{key!r} has virtual tokens; they stand in the prompt itself")
            for variable in template.variables:
                if variable not in known:
                    refuse(step.name, f"{key!r} uses {variable!r}, which is not known here; {_near(variable, known)}")
            for earlier, field in _fields(template):
                there = fields.get(earlier)
                if there is not None and field not in there:
                    refuse(
                        step.name,
                        f"{key!r} uses {f'{earlier}.{field}'!r}, which its schema lacks; {_near(field, there)}",
                    )
        for variable in prompt.variables:
            optional = variable in prompt.specs and prompt.specs[variable].default is not None
            if variable not in templates and not optional:
                refuse(step.name, f"prompt {prompt.name!r} needs the input {variable!r}; add it to 'with'")
        steps.append(Step(step.name, prompt, templates))
        known.append(step.name)
        if prompt.output.json_schema is not None and "properties" in prompt.output.json_schema:
            fields[step.name] = list(prompt.output.json_schema["properties"])
    names = [step.name for step in steps]
    if form.output not in names:
        raise UsageError(f"{str(path)!r}: 'output' names a step, not {form.output!r}; {_near(form.output, names)}")
    return Chain(name, tuple(form.inputs), tuple(steps), form.output)


def _fields(template: Template) -> Iterator[tuple[str, str]]:
    """What `{{ ticket.team }}` or `{{ ticket["team"] }}` take apart: the name and the field."""
    for node in new_environment().parse(template.source).find_all((nodes.Getattr, nodes.Getitem)):
        match node:
            case nodes.Getattr(node=nodes.Name(name=name), attr=field):
                yield name, field
            case nodes.Getitem(node=nodes.Name(name=name), arg=nodes.Const(value=str(field))):
                yield name, field


def _find(call: str, path: Path, table: PromptTable | None) -> Prompt:
    if not call.endswith(".prompt"):
        return (table or PromptTable.open()).get(call)
    if "\0" in call:
        raise UsageError(f"{call!r:.100} is no file; name one in the chain's folder")
    file, folder = (path.parent / call).resolve(), path.parent.resolve()
    if not file.is_relative_to(folder):
        raise UsageError(f"{call!r} lies outside of the chain's folder {str(folder)!r}; copy it there, or store it")
    return Prompt.load(file, lambda ref: (table or PromptTable.open()).get(ref))


def _near(word: str, there: Sequence[Any]) -> str:
    near = difflib.get_close_matches(word, there, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there) or 'none'}"
