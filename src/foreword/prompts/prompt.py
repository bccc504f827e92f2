"""A prompt: name, template, inputs, output, and the vectors of its virtual tokens. Knows no models."""

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from foreword.errors import ForewordError, UsageError
from foreword.prompts.examples import Examples, Length
from foreword.prompts.includes import Partial, Resolve, check_partial
from foreword.prompts.inputs import MAX_PATTERNS, Input, read_value
from foreword.prompts.pieces import Piece
from foreword.prompts.schema import checked
from foreword.prompts.soft import SoftTokens
from foreword.prompts.template import Template

ANY = Input()
EXAMPLES = "examples"
"""What a template calls the rows of `Prompt.examples`."""
CHARACTERS_PER_TOKEN = 4
"""Where no tokenizer is at hand."""
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?", re.ASCII)


class Output(BaseModel):
    """What the answer may be: free text, one of `choices`, or JSON that fits a `schema`."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)
    choices: tuple[str, ...] | None = None
    log_prior: tuple[FiniteFloat, ...] | None = None
    """Per choice, nats: the model's own leaning, taken off before choosing (Zhou 2023, batch calibration)."""
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


@dataclass(frozen=True)
class Prompt:
    """A hard prompt, or, with virtual tokens in its body, a soft one.

    Raises ForewordError when the template is not allowed, uses a variable that `inputs` does not declare, or does not
    fit its vectors. A body with virtual tokens and no vectors is a start for tuning and cannot be run yet.
    """

    name: str
    body: str
    inputs: Mapping[str, Input] | None = None
    """Declared variables; None: whatever the template uses, as text."""
    output: Output = field(default_factory=Output)
    soft: SoftTokens | None = None
    description: str = ""
    labelled_rows: int = 0
    """Labelled rows that went into making it: demonstrations, or the rows that it was tuned on."""
    includes: Mapping[str, Partial] = field(default_factory=dict)
    """The prompts that the body includes, by reference."""
    examples: Examples | None = None
    """Rows that the body shows as `examples`."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ForewordError(f"prompt name {self.name!r}: take a-z, 0-9, '.', '_' and '-', 100 characters at most")
        for ref, partial in self.includes.items():
            check_partial(self.name, ref, partial.prompt)
        if self.examples is not None:
            if self.examples.rows is None:
                raise ForewordError(f"prompt {self.name!r}: examples stand in 'rows'; a 'file' is for files only")
            if not self.labelled_rows:  # as whoever reads its file will count them
                object.__setattr__(self, "labelled_rows", len(self.examples.rows))
        variables = self.variables  # reads the template, and so refuses what is not allowed
        if self.inputs is not None:
            for variable in variables:
                if variable not in self.specs:
                    near = difflib.get_close_matches(variable, list(self.specs), n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"add it to 'inputs': {list(self.inputs)}"
                    raise ForewordError(f"prompt {self.name!r}: variable {variable!r} is not declared; {hint}")
        if len(self.patterns) > MAX_PATTERNS:
            raise ForewordError(f"prompt {self.name!r} has more than {MAX_PATTERNS} patterns in its inputs; use fewer")
        if self.examples is not None and EXAMPLES in self.specs:
            raise ForewordError(f"prompt {self.name!r} has examples, so no input can be called {EXAMPLES!r}; rename it")
        if self.soft is not None and len(self.soft) != self.virtual_tokens:
            raise ForewordError(
                f"prompt {self.name!r} has {self.virtual_tokens} virtual tokens in its body and "
                f"{len(self.soft)} vectors; they must be as many"
            )

    @cached_property
    def template(self) -> Template:
        return Template(self.body, self.name, {ref: p.prompt.template for ref, p in self.includes.items()})

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The inputs that `render` takes."""
        own = EXAMPLES if self.examples is not None else None
        return tuple(name for name in self.template.variables if name != own)

    @cached_property
    def specs(self) -> Mapping[str, Input]:
        """What is declared about inputs, here or in what is included; what is declared here goes first."""
        specs: dict[str, Input] = {}
        for partial in self.includes.values():
            specs |= partial.prompt.specs
        return specs | dict(self.inputs or {})

    @property
    def virtual_tokens(self) -> int:
        """P, the number of virtual tokens over all places."""
        return sum(self.template.places)

    @property
    def nbytes(self) -> int:
        """The memory that its body and its vectors take, in bytes."""
        tensors = self.soft.tensors if self.soft is not None else {}
        return len(self.body) + sum(tensor.nbytes for tensor in tensors.values())

    @property
    def patterns(self) -> list[str]:
        """All that its inputs may have to match."""
        return [pattern for spec in self.specs.values() for pattern in spec.patterns]

    def render(self, inputs: Mapping[str, object], length: Length | None = None) -> tuple[Piece, ...]:
        """Fill in the template. Raises UsageError on a missing, unknown, oversized or ill-typed input.

        `length` counts the tokens of a text, for examples within a number of tokens; without it, 4 characters are one.
        """
        return self.place(self.fill(inputs), length)

    def place(self, values: Mapping[str, object], length: Length | None = None) -> tuple[Piece, ...]:
        """The rendered template with `values` as they are: one for every variable, and nothing checked."""
        if self.examples is not None and EXAMPLES in self.template.variables:
            values = {**values, EXAMPLES: self.examples.chosen(values, length or _estimate)}
        return self.template.render(values)

    @cached_property
    def written(self) -> str:
        """All that its author wrote: the body, and those that it includes."""
        return "\0".join([self.body, *(partial.prompt.written for partial in self.includes.values())])

    def data(self, inputs: Mapping[str, object]) -> Mapping[str, object]:
        """What somebody else than the template's author may have written: `inputs`, and the examples."""
        return {**inputs, EXAMPLES: self.examples.text} if self.examples is not None else inputs

    def fill(self, inputs: Mapping[str, object]) -> dict[str, object]:
        """A checked value for every variable, defaults filled in. Raises UsageError as `render` does."""
        for name in inputs:
            if name not in self.variables and name not in self.specs:
                near = difflib.get_close_matches(name, self.variables, n=1)
                hint = f"did you mean {near[0]!r}? It" if near else "it"
                raise UsageError(f"prompt {self.name!r} has no input {name!r}; {hint} takes {list(self.variables)}")
        if missing := self._missing(inputs):
            raise UsageError(f"prompt {self.name!r} needs the input {missing!r}; it takes {list(self.variables)}")
        return self._checked(inputs)

    def take(self, row: Mapping[str, object], where: str) -> dict[str, object]:
        """The inputs that this prompt takes out of a row that may hold more; an error says `where` the row stands."""
        if missing := self._missing(row):
            raise UsageError(f"{where}: prompt {self.name!r} needs the input {missing!r}; the row has {list(row)}")
        try:
            return self._checked(row)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    def take_texts(self, row: Mapping[str, object], where: str) -> dict[str, object]:
        """As `take`, for a row of a task or a file: a text is read as JSON where another type is declared."""
        try:
            typed = {n: self._typed(n, value) if n in self.variables else value for n, value in row.items()}
        except UsageError as error:
            raise UsageError(f"{where}: prompt {self.name!r}: {error}") from error
        return self.take(typed, where)

    def _typed(self, name: str, value: object) -> object:
        return read_value(self.specs[name], name, value) if name in self.specs and isinstance(value, str) else value

    def _missing(self, inputs: Mapping[str, object]) -> str | None:
        return next((n for n in self.variables if n not in inputs and self.specs.get(n, ANY).default is None), None)

    def _checked(self, inputs: Mapping[str, object]) -> dict[str, object]:
        values = {n: inputs[n] if n in inputs else self.specs[n].default for n in self.variables}
        for name, value in values.items():
            if problem := self.specs.get(name, ANY).problem(value):
                raise UsageError(f"prompt {self.name!r}: input {name!r} {problem}")
        return values

    def answering(self, choices: tuple[str, ...] | None) -> "Prompt":
        """This prompt for a task with these choices; refuses other choices than its own."""
        if self.output.json_schema is not None:
            if choices is not None:
                raise UsageError(
                    f"prompt {self.name!r} answers JSON by a schema, the task asks for one of {list(choices)}; "
                    "take the schema out of its 'output'"
                )
            return self
        if self.output.choices is None:
            return replace(self, output=Output(choices=choices))
        if self.output.choices != choices:
            raise UsageError(
                f"prompt {self.name!r} answers {list(self.output.choices)}, the task asks for "
                f"{list(choices) if choices else 'free text'}; make them the same, in the same order"
            )
        return self

    def without_prior(self) -> "Prompt":
        """This prompt as a start for others: a prior fits the prompt and the model that it was measured on."""
        return replace(self, output=self.output.model_copy(update={"log_prior": None}))

    @cached_property
    def digest(self) -> str:
        """sha256 over the canonical file and the vectors: two prompts are the same when their digests are."""
        vectors = self.soft.digest if self.soft is not None else ""
        return hashlib.sha256(f"{self.to_text()}\n{vectors}".encode()).hexdigest()

    def to_text(self) -> str:
        """The `.prompt` file, in canonical form."""
        from foreword.prompts.file import to_text

        return to_text(self)

    @staticmethod
    def load(path: str | Path, resolve: Resolve | None = None) -> "Prompt":
        """Read `NAME.prompt`, and `NAME.safetensors` where it stands beside it.

        `resolve` gives the prompts that it includes: the `get` of a prompt table.
        """
        from foreword.prompts.file import load

        return load(Path(path), resolve)

    def save(self, path: str | Path) -> None:
        """Write `NAME.prompt`, and the vectors beside it."""
        from foreword.prompts.file import save

        save(self, Path(path))

    def replace(self, **changes: object) -> "Prompt":
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def expect(prompt: object) -> Prompt:
    """`prompt` itself. Raises UsageError where it is something else: a reference, most of all."""
    if isinstance(prompt, Prompt):
        return prompt
    if not isinstance(prompt, str | Path):
        raise UsageError(f"give a Prompt, not {prompt!r:.80}")
    how = "Prompt.load" if str(prompt).endswith(".prompt") or "/" in str(prompt) else "PromptTable.open().get"
    raise UsageError(f"{str(prompt)!r:.80} is no Prompt; give one: {how}({str(prompt)!r:.80})")


def _estimate(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
