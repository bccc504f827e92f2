"""A chain calls prompts one after the other; each can read the answers of those before it.

Knows prompts and templates; knows no models: `chain_strategy` runs it. The file is YAML, and its expressions are
templates in the language of prompts. A chain calls prompts and no chains, so it ends after as many calls as it has
steps.
"""

import difflib
import hashlib
import json
import os.path
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NoReturn

from jinja2 import nodes
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from foreword.errors import ForewordError, UsageError
from foreword.files import read_text
from foreword.forms import validation_message
from foreword.prompts import PROMPT_NAME, RESERVED_NAMES, Prompt, Template, Text, new_environment
from foreword.table import PromptTable
from foreword.yaml_text import read_yaml

MAX_STEPS = 20
"""The most steps that a chain may have."""

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
"""A name that a template can use."""


@dataclass(frozen=True)
class Step:
    """One step of a chain: the call of a prompt."""

    name: str
    prompt: Prompt
    expressions: Mapping[str, Template]
    """A template for each input of the prompt, over the chain's inputs and the answers of earlier steps."""

    def inputs(self, values: Mapping[str, object]) -> dict[str, object]:
        """Render the prompt's inputs; one that is declared as another type than string is read as JSON.

        Raises ForewordError if a rendered text is no JSON of that type.
        """
        return {name: self._render_input(name, template, values) for name, template in self.expressions.items()}

    def _render_input(self, name: str, template: Template, values: Mapping[str, object]) -> object:
        text = ""
        for piece in template.render({variable: values[variable] for variable in template.variables}):
            if not isinstance(piece, Text):
                raise ForewordError(f"{template.name!r}: an expression makes a text; write turns in the prompt itself")
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
    """Steps in order; the answer of the step `output` is the chain's. `Chain.load` reads one, `Program` runs it."""

    name: str
    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    output: str

    @staticmethod
    def load(path: str | Path, table: PromptTable | None = None) -> "Chain":
        """Read a chain and every prompt that it calls.

        A prompt comes from the table (by default the user's own), or, if `call` ends in `.prompt`, from a file in the
        chain's folder. Raises ForewordError or UsageError that names the file, the step and what is wrong; nothing is
        run.
        """
        path = Path(path)
        return _build(_read_form(path), path, table)

    @cached_property
    def digest(self) -> str:
        """The sha256 over the steps, their prompts and what these are given: equal for chains that answer alike."""
        parts: list[object] = [list(self.inputs), self.output]
        for step in self.steps:
            sources = {name: template.source for name, template in step.expressions.items()}
            parts.append([step.name, step.prompt.digest, sources])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def last(self) -> Prompt:
        """Return the prompt of the step `output`."""
        return next(step.prompt for step in self.steps if step.name == self.output)

    def ending(self, prompt: Prompt) -> "Chain":
        """Return this chain with `prompt` in the step `output`."""
        steps = [replace(step, prompt=prompt) if step.name == self.output else step for step in self.steps]
        return replace(self, steps=tuple(steps))

    def answering(self, choices: tuple[str, ...] | None) -> "Chain":
        """Return this chain for a task with these choices, as `Prompt.answering`. Raises UsageError on others."""
        try:
            return self.ending(self.last.answering(choices))
        except UsageError as error:
            raise UsageError(f"chain {self.name!r}, step {self.output!r}: {error}") from error

    def take(self, row: Mapping[str, object], where: str) -> dict[str, object]:
        """Return this chain's inputs out of a row that may hold more.

        Raises UsageError, which names `where` the row is, if one is missing.
        """
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


def _read_form(path: Path) -> _ChainForm:
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
    fields: dict[str, list[str]] = {}  # the fields of each step's JSON answer, if its schema names them
    for step in form.steps:
        if step.name in known:
            refuse(step.name, "this name is taken by an input or an earlier step; give it another with 'as'")
        try:
            prompt = _load_prompt(step.call, path, table)
        except ForewordError as error:
            error.at(f"{str(path)!r}, step {step.name!r}")
            raise
        templates = {key: Template(text, f"{name}.{step.name}.{key}") for key, text in step.expressions.items()}
        for key, template in templates.items():
            if key not in prompt.variables and key not in prompt.specs:
                refuse(step.name, f"prompt {prompt.name!r} has no input {key!r}; {_suggest(key, prompt.variables)}")
            if template.places:
                refuse(step.name, f"{key!r} has virtual tokens; write them in the prompt itself")
            for variable in template.variables:
                if variable not in known:
                    refuse(
                        step.name, f"{key!r} uses {variable!r}, which is not known here; {_suggest(variable, known)}"
                    )
            for earlier, field in _fields(template):
                declared = fields.get(earlier)
                if declared is not None and field not in declared:
                    refuse(
                        step.name,
                        f"{key!r} uses {f'{earlier}.{field}'!r}, which its schema lacks; {_suggest(field, declared)}",
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
        raise UsageError(f"{str(path)!r}: 'output' names a step, not {form.output!r}; {_suggest(form.output, names)}")
    return Chain(name, tuple(form.inputs), tuple(steps), form.output)


def _fields(template: Template) -> Iterator[tuple[str, str]]:
    """Yield the name and the field of each `{{ ticket.team }}` or `{{ ticket["team"] }}` in a template."""
    for node in new_environment().parse(template.source).find_all((nodes.Getattr, nodes.Getitem)):
        match node:
            case nodes.Getattr(node=nodes.Name(name=name), attr=field):
                yield name, field
            case nodes.Getitem(node=nodes.Name(name=name), arg=nodes.Const(value=str(field))):
                yield name, field


def _load_prompt(call: str, path: Path, table: PromptTable | None) -> Prompt:
    if not call.endswith(".prompt"):
        return (table or PromptTable.open()).get(call)
    if "\0" in call:
        raise UsageError(f"{call!r:.100} is no file; name one in the chain's folder")
    file, folder = (path.parent / call).resolve(), path.parent.resolve()
    if not file.is_relative_to(folder):
        raise UsageError(f"{call!r} lies outside of the chain's folder {str(folder)!r}; copy it there, or store it")
    return Prompt.load(file, lambda ref: (table or PromptTable.open()).get(ref))


def _suggest(word: str, known: Sequence[Any]) -> str:
    similar = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {similar[0]!r}?" if similar else f"there are: {', '.join(known) or 'none'}"
