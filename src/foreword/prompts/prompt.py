"""A prompt: name, template, inputs, output, and the vectors of its virtual tokens. Knows no models."""

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from foreword.errors import ForewordError, UsageError
from foreword.prompts.pieces import Piece
from foreword.prompts.schema import checked
from foreword.prompts.soft import SoftTokens
from foreword.prompts.template import MAX_ITEMS, Template

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?", re.ASCII)


class Input(BaseModel):
    """What one variable takes: a small part of JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    type: Literal["string", "integer", "number", "boolean", "array"] = "string"
    maxLength: int | None = Field(default=None, ge=1)  # noqa: N815 - JSON Schema's own word
    description: str = ""


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

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ForewordError(f"prompt name {self.name!r}: take a-z, 0-9, '.', '_' and '-', 100 characters at most")
        variables = self.template.variables  # compiles, and so refuses what is not allowed
        if self.inputs is not None:
            for variable in variables:
                if variable not in self.inputs:
                    near = difflib.get_close_matches(variable, list(self.inputs), n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"add it to 'inputs': {list(self.inputs)}"
                    raise ForewordError(f"prompt {self.name!r}: variable {variable!r} is not declared; {hint}")
        if self.soft is not None and len(self.soft) != self.virtual_tokens:
            raise ForewordError(
                f"prompt {self.name!r} has {self.virtual_tokens} virtual tokens in its body and "
                f"{len(self.soft)} vectors; they must be as many"
            )

    @cached_property
    def template(self) -> Template:
        return Template(self.body, self.name)

    @property
    def variables(self) -> tuple[str, ...]:
        """The inputs that `render` takes."""
        return self.template.variables

    @property
    def virtual_tokens(self) -> int:
        """P, the number of virtual tokens over all places."""
        return sum(self.template.places)

    def render(self, inputs: Mapping[str, object]) -> tuple[Piece, ...]:
        """Fill in the template. Raises UsageError on a missing, unknown, oversized or ill-typed input."""
        for name in inputs:
            if name not in self.variables and name not in (self.inputs or {}):
                near = difflib.get_close_matches(name, self.variables, n=1)
                hint = f"did you mean {near[0]!r}? It" if near else "it"
                raise UsageError(f"prompt {self.name!r} has no input {name!r}; {hint} takes {list(self.variables)}")
        missing = [name for name in self.variables if name not in inputs]
        if missing:
            raise UsageError(f"prompt {self.name!r} needs the input {missing[0]!r}; it takes {list(self.variables)}")
        for name in self.variables:
            self._check_input(name, inputs[name])
        return self.template.render({name: inputs[name] for name in self.variables})

    def take(self, row: Mapping[str, object], where: str) -> dict[str, object]:
        """The inputs that this prompt takes out of a row that may hold more; an error says `where` the row stands."""
        missing = [name for name in self.variables if name not in row]
        if missing:
            raise UsageError(f"{where}: prompt {self.name!r} needs the input {missing[0]!r}; the row has {list(row)}")
        try:
            for name in self.variables:
                self._check_input(name, row[name])
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        return {name: row[name] for name in self.variables}

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

    def _check_input(self, name: str, value: object) -> None:
        spec = (self.inputs or {}).get(name, Input())
        types: dict[str, type | tuple[type, ...]]
        types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": (list, tuple)}
        if not isinstance(value, types[spec.type]) or (isinstance(value, bool) and spec.type != "boolean"):
            raise UsageError(f"prompt {self.name!r}: input {name!r} must be of type {spec.type}, not {value!r:.80}")
        limit = spec.maxLength or (MAX_ITEMS if spec.type == "array" else None)
        if limit is not None and isinstance(value, str | list | tuple) and len(value) > limit:
            raise UsageError(f"prompt {self.name!r}: input {name!r} is {len(value):,} long, {limit:,} at most; cut it")

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
    def load(path: str | Path) -> "Prompt":
        """Read `NAME.prompt`, and `NAME.safetensors` where it stands beside it."""
        from foreword.prompts.file import load

        return load(Path(path))

    def save(self, path: str | Path) -> None:
        """Write `NAME.prompt`, and the vectors beside it."""
        from foreword.prompts.file import save

        save(self, Path(path))

    def replace(self, **changes: object) -> "Prompt":
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]
