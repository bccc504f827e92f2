"""A prompt: name, template, inputs, output, what it includes, and the vectors of its virtual tokens. Knows no models.

`{% include "house-style@prod" %}` stands for the text of a stored prompt. Whoever reads a prompt brings a resolver that
gives the prompt for a reference, so that an include never reaches a file. What a reference meant when the prompt was
read is pinned by version and digest, in its file and so in its own digest: the prompt renders the same ever after.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from foreword.errors import ForewordError, UsageError
from foreword.prompts.examples import Examples, Length
from foreword.prompts.file import (
    FrontMatter,
    Output,
    Pin,
    read_file,
    read_front_matter,
    read_vectors,
    to_text,
    write_files,
)
from foreword.prompts.inputs import MAX_PATTERNS, Input, compiled, read_value
from foreword.prompts.pieces import Piece
from foreword.prompts.soft import SoftTokens
from foreword.prompts.template import MAX_INCLUDES, MAX_TOKENS, Template, included

ANY_INPUT = Input()
EXAMPLES = "examples"
"""What a template calls the rows of `Prompt.examples`."""
CHARACTERS_PER_TOKEN = 4
"""Where no tokenizer is at hand."""
PROMPT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class Partial:
    """A prompt that another one includes."""

    prompt: "Prompt"
    version: int | None = None
    """In the table; None for one that was not stored yet when it was read."""

    @property
    def pin(self) -> Pin:
        """What its reference stands for, as the front matter of whoever includes it has it."""
        return Pin(version=self.version, digest=self.prompt.digest)


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
        if not PROMPT_NAME.fullmatch(self.name):
            raise ForewordError(f"prompt name {self.name!r}: take a-z, 0-9, '.', '_' and '-', 100 characters at most")
        for ref, partial in self.includes.items():
            _check_partial(self.name, ref, partial.prompt)
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
        return next(
            (n for n in self.variables if n not in inputs and self.specs.get(n, ANY_INPUT).default is None), None
        )

    def _checked(self, inputs: Mapping[str, object]) -> dict[str, object]:
        values = {n: inputs[n] if n in inputs else self.specs[n].default for n in self.variables}
        for name, value in values.items():
            if problem := self.specs.get(name, ANY_INPUT).problem(value):
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
        refs = included(self.body, self.name) if self.includes else ()  # in the body's order
        front = FrontMatter.model_construct(
            name=self.name, description=self.description, labelled_rows=self.labelled_rows, inputs=self.inputs,
            output=self.output, examples=self.examples, includes={ref: self.includes[ref].pin for ref in refs},
        )  # fmt: skip
        return to_text(front, self.body)

    @staticmethod
    def from_text(
        text: str,
        source: str,
        name: str | None = None,
        soft: SoftTokens | None = None,
        resolve: "Resolve | None" = None,
        folder: Path | None = None,
    ) -> "Prompt":
        """Read a `.prompt` file's text; `source` is named in errors, `name` is used where the file gives none.

        `resolve` gives the prompts that it includes. Examples are read from files in `folder`, and nowhere without one.
        """
        front, body = read_front_matter(text, source)
        if (chosen := front.name or name) is None:
            raise ForewordError(f"{source!r} has no 'name'; add one to its front matter")
        partials = _read_partials(body, source, front.includes, resolve)
        examples = front.examples.embedded(folder, source) if front.examples is not None else None
        return Prompt(
            chosen, body, front.inputs, front.output, soft, front.description, front.labelled_rows, partials, examples
        )

    @staticmethod
    def load(path: str | Path, resolve: "Resolve | None" = None) -> "Prompt":
        """Read `NAME.prompt`, and `NAME.safetensors` where it stands beside it.

        `resolve` gives the prompts that it includes: the `get` of a prompt table.
        """
        path = Path(path)
        text, vectors = read_file(path), read_vectors(path.with_suffix(".safetensors"))
        prompt = Prompt.from_text(text, str(path), path.stem.lower(), vectors, resolve, path.parent)
        for pattern in prompt.patterns:  # whoever writes it hears of it here; a stored one is made when it is needed
            compiled(pattern)
        return prompt

    def save(self, path: str | Path) -> None:
        """Write `NAME.prompt`, and the vectors beside it. Raises ForewordError where other weights stand there."""
        write_files(Path(path), self.to_text(), self.soft)

    def replace(self, **changes: object) -> "Prompt":
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


Resolve = Callable[[str], Prompt]
"""The prompt that a reference stands for: `PromptTable.get`, for one. Raises ForewordError where there is none."""


def _read_partials(body: str, source: str, pins: Mapping[str, Pin], resolve: Resolve | None) -> dict[str, Partial]:
    """The partials of a body by reference. `source` is named in errors.

    Raises ForewordError where one is missing, is not the one that was pinned, cannot be a partial, or where there are
    too many.
    """
    refs = included(body, source)
    if unused := [ref for ref in pins if ref not in refs]:
        raise ForewordError(f"{source!r}: 'includes' has {unused[0]!r}, which the body does not include; remove it")
    if len(refs) > MAX_INCLUDES:
        raise ForewordError(f"{source!r} includes {len(refs)} prompts, {MAX_INCLUDES} at most; join some of them")
    if refs and resolve is None:
        raise ForewordError(
            f"{source!r} includes {refs[0]!r}, which is kept in a prompt table; "
            "read it with Prompt.load(path, resolve=PromptTable.open().get)"
        )
    partials, tokens = {}, 0
    for ref in refs:
        assert resolve is not None
        partials[ref] = _read_partial(ref, source, pins.get(ref), resolve)
        tokens += partials[ref].prompt.template.tokens
        if tokens > MAX_TOKENS:
            raise ForewordError(f"{source!r} includes more than {MAX_TOKENS:,} variables, texts and signs; shorten it")
    return partials


def _read_partial(ref: str, source: str, pin: Pin | None, resolve: Resolve) -> Partial:
    name = ref.partition("@")[0].partition(":")[0]
    at = f"{name}:{pin.version}" if pin is not None and pin.version is not None else ref
    try:
        prompt = resolve(at)
    except ForewordError as error:
        raise ForewordError(f"{source!r} includes {ref!r}: {error}") from error
    _check_partial(source, ref, prompt)
    if pin is not None and prompt.digest != pin.digest:
        raise ForewordError(
            f"{source!r} includes {ref!r}, but {at!r} is not what it was when this was written; bring the one with "
            f"digest {pin.digest[:12]} into the table, or remove its line under 'includes' to take what is there now"
        )
    return Partial(prompt, pin.version if pin is not None else None)


def _check_partial(name: str, ref: str, prompt: Prompt) -> None:
    """Refuse a partial that is more than text and variables."""
    if prompt.virtual_tokens:
        raise ForewordError(f"prompt {name!r} includes {ref!r}, which has virtual tokens; include text only")
    if prompt.examples is not None:
        raise ForewordError(f"prompt {name!r} includes {ref!r}, which has examples; move them into {name!r}")


def expect_prompt(prompt: object) -> Prompt:
    """`prompt` itself. Raises UsageError where it is something else: a reference, most of all."""
    if isinstance(prompt, Prompt):
        return prompt
    if not isinstance(prompt, str | Path):
        raise UsageError(f"give a Prompt, not {prompt!r:.80}")
    how = "Prompt.load" if str(prompt).endswith(".prompt") or "/" in str(prompt) else "PromptTable.open().get"
    raise UsageError(f"{str(prompt)!r:.80} is no Prompt; give one: {how}({str(prompt)!r:.80})")


def _estimate(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
