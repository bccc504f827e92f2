"""What the readers and writers of formats share: bounds, names, and what a file says beside its template.

Knows no single format. Files come from strangers: what is said of a value names its key and never shows it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from foreword.errors import ForewordError
from foreword.forms import validation_message
from foreword.prompts.file import Output, line_ends, split_front_matter
from foreword.prompts.inputs import Input
from foreword.prompts.prompt import PROMPT_NAME, Prompt
from foreword.yaml_text import read_yaml

MAX_FILE = 1_000_000
"""Characters in a file of any format."""
MAX_BYTES = 4 * MAX_FILE
"""As many characters have at most so many bytes."""
MAX_NESTING = 32
"""Lists and objects inside each other."""
OWN = "foreword"
"""The key under which a format's free metadata holds what it has no word for."""

Losses = list[str]
"""What a format cannot hold, a phrase each."""


def check_size(text: str) -> None:
    if len(text) > MAX_FILE:
        raise ForewordError(f"the file has {len(text):,} characters, {MAX_FILE:,} at most for a prompt")


def read_json(text: str) -> Any:
    """JSON of bounded size and depth, without NaN or infinity."""
    check_size(text)
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ForewordError(f"the file is no JSON: {error or 'it is nested too deeply'}") from None
    check_nesting(found)
    return found


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number in JSON")


def check_nesting(value: object) -> None:
    """Bounds how deep a value goes, so that nothing that walks through it can run out of stack."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ForewordError(f"the file is nested more than {MAX_NESTING} deep; no prompt is")


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """YAML front matter (an object, no aliases) and the text behind it."""
    check_size(text)
    head, body = (
        split_front_matter(text, "the file") if text.removeprefix("\ufeff").startswith("---") else ("", line_ends(text))
    )
    try:
        front = read_yaml(head, "the file")
    except ForewordError as error:
        if not isinstance(cause := error.__cause__, Exception):
            raise
        mark = getattr(cause, "problem_mark", None)  # PyYAML's own words would show the line, and it may hold a key
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise ForewordError(f"the front matter{place} is no YAML that can be read here; mend it") from None
    if not isinstance(front, dict):
        raise ForewordError("the front matter is no list of 'key: value'")
    check_nesting(front)
    return {str(key): value for key, value in front.items()}, body


def prompt_name(found: object, fallback: str, losses: Losses) -> str:
    """A name as prompts have it, out of the one in the file, or else out of `fallback`."""
    said = found if isinstance(found, str) and found.strip() else fallback
    name = re.sub(r"[^a-z0-9._-]+", "-", said.lower()).strip("._-")[:100].rstrip("._-")
    if not PROMPT_NAME.fullmatch(name):
        name = "imported"
    if said is found and name != said:
        losses.append(f"the name {said!r:.80} is {name!r} here")
    return name


def text_field(value: object) -> str:
    return value if isinstance(value, str) else ""


def dropped(fields: Mapping[str, Any], kept: tuple[str, ...], what: str = "") -> Losses:
    """The keys beside `kept` that say something."""
    return [f"{what}{key!r:.80}" for key in fields if key not in kept and fields[key] not in (None, "", [], {}, False)]


def inputs_of(schemas: Mapping[str, Any], losses: Losses) -> dict[str, Input] | None:
    """Declared inputs out of JSON Schemas by name; None, with a word on why, where one is of no type known here."""
    found: dict[str, Input] = {}
    for name, schema in schemas.items():
        fields = schema if isinstance(schema, dict) else {}
        kept = {key: value for key, value in fields.items() if key in Input.model_fields and value is not None}
        if isinstance(kind := kept.get("type"), list):  # a type or null: optional
            kept["type"] = next((one for one in kind if one != "null"), None)
        try:
            found[name] = Input.model_validate(kept)
        except ValidationError:
            losses.append(f"the declared inputs: {name!r:.80} is of a kind that inputs are not here")
            return None
        losses += [f"input {name!r:.80}: {loss}" for loss in dropped(fields, tuple(kept))]
    return found or None


def with_inputs(prompt: Prompt, inputs: dict[str, Input] | None, losses: Losses) -> Prompt:
    """`prompt` with the inputs that its file declares, unless it has some, or uses others."""
    if inputs is None or prompt.inputs is not None:
        return prompt
    if missing := [name for name in prompt.variables if name not in inputs]:
        losses.append(f"the declared inputs: {missing[0]!r} is used and not among them")
        return prompt
    return prompt.replace(inputs=inputs)


def fields_of(spec: Input) -> dict[str, Any]:
    """What an input says beside the defaults."""
    return spec.model_dump(mode="json", exclude_defaults=True)


def own(prompt: Prompt, *native: str) -> dict[str, Any]:
    """What a format has no words for, for its free metadata; `native` names the fields that it has words for."""
    fields: dict[str, Any] = {}
    if prompt.description:
        fields["description"] = prompt.description
    if prompt.labelled_rows:
        fields["labelled_rows"] = prompt.labelled_rows
    if prompt.inputs is not None:
        fields["inputs"] = {name: fields_of(spec) for name, spec in prompt.inputs.items()}
    if output := prompt.output.model_dump(mode="json", exclude_defaults=True):
        fields["output"] = output
    return {key: value for key, value in fields.items() if key not in native}


def build(name: str, body: str, fields: Mapping[str, Any], losses: Losses) -> Prompt:
    """A prompt out of its template and what stands beside it, in the form that `own` writes."""
    inputs, output = None, Output()
    try:
        if isinstance(declared := fields.get("inputs"), dict):
            inputs = {str(key): Input.model_validate(value) for key, value in declared.items()}
        if isinstance(fields.get("output"), dict):
            output = Output.model_validate(fields["output"])
    except ValidationError as error:
        raise ForewordError(validation_message(f"the file's {OWN!r} metadata", error)) from None
    rows = fields.get("labelled_rows")
    rows = rows if type(rows) is int and rows >= 0 else 0
    prompt = Prompt(name, body, None, output, None, text_field(fields.get("description")), rows)
    return with_inputs(prompt, inputs, losses)
