"""What is likely wrong with a prompt file: found in its text, before any model reads it. Knows no tokenizer."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

from foreword.errors import ForewordError, UsageError
from foreword.prompts.inputs import compiled
from foreword.prompts.pieces import Text, Turn
from foreword.prompts.prompt import ANY_INPUT, EXAMPLES, Prompt, Resolve
from foreword.prompts.samples import sample_row

MAX_FINDINGS = 50
"""Of one kind."""
BIDI = {*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
WIDE = {"\u00a0": "non-breaking space", "\u2007": "figure space", "\u202f": "narrow non-breaking space"}
HIDDEN = ("Cf", "Cc", "Co", "Zl", "Zp")
"""Unicode's categories of characters that show nothing."""
JOINERS = {"\u200c", "\u200d"}
"""Parts of words in some scripts, and of emoji: said, but no fault."""


@dataclass(frozen=True)
class Finding:
    """One thing that is likely wrong."""

    severity: Literal["error", "warning", "note"]
    line: int | None
    """Of the file, from 1; None where it has no place there."""
    what: str
    todo: str
    """What to do about it."""


def lint_text(
    text: str,
    source: str,
    resolve: Resolve | None = None,
    folder: Path | None = None,
    columns: Sequence[str] | None = None,
    choices: Sequence[str] | None = None,
    *,
    tuned: bool = False,
) -> tuple[Prompt | None, list[Finding]]:
    """The prompt in `text`, None where it cannot be read, and what was found in it, by line.

    `columns` and `choices` are a task's: the prompt's inputs and answers are held against them. `tuned`: vectors stand
    beside the text.
    """
    lines = text.split("\n")
    findings = [*islice(_invisible(lines), MAX_FINDINGS)]
    try:
        prompt = Prompt.from_text(text, source, "unnamed", resolve=resolve, folder=folder)
        for pattern in prompt.patterns:
            compiled(pattern)
    except ForewordError as error:
        return None, [*findings, _unread(error, lines)]
    if prompt.name == "unnamed":
        prompt = prompt.replace(name=re.sub(r"[^a-z0-9._-]+", "-", Path(source).stem.lower()).strip("-._") or "unnamed")
    for check in (_inputs, _labels, _end, _turns):
        findings += islice(check(prompt, lines), MAX_FINDINGS)
    if prompt.virtual_tokens and not tuned:
        what = f"{prompt.virtual_tokens:,} virtual tokens and no vectors: it cannot run yet"
        line = line_of(r"\bvirtual\s*\(", lines, body_start(lines))
        findings.append(Finding("note", line, what, "tune it: 'foreword tune TASK --start PROMPT'"))
    findings += islice(_against(prompt, columns, choices, lines), MAX_FINDINGS)
    return prompt, sorted(findings, key=lambda finding: (finding.line is None, finding.line or 0))


def line_of(pattern: str, lines: Sequence[str], start: int = 0) -> int | None:
    """The first line, from 1, in which `pattern` is found; `start` lines are passed over."""
    return next((i + 1 for i in range(start, len(lines)) if re.search(pattern, lines[i])), None)


def body_start(lines: Sequence[str]) -> int:
    """How many lines stand before the body."""
    if not lines or lines[0].removeprefix("\ufeff").rstrip("\r") != "---":
        return 0
    return next((i + 1 for i in range(1, len(lines)) if lines[i].rstrip("\r") == "---"), 0)


def _unread(error: ForewordError, lines: Sequence[str]) -> Finding:
    message, start = str(error), body_start(lines)
    line: int | None = None
    if place := re.search(r", line (\d+):", message):
        line = start + int(place[1])
    elif place := re.search(r"no YAML: line (\d+):", message):  # counted in the whole file
        line = int(place[1])
    elif name := re.search(r"variable '([^']*)' is not declared", message):
        line = line_of(_use(name[1]), lines, start)
    elif field := re.search(r": no key '([\w.-]+)'", message) or re.search(r", '([\w.-]+)':", message):
        line = line_of(rf"\b{re.escape(field[1].split('.')[0])}\b", lines)
    what, _, todo = message.rpartition("; ")
    return Finding("error", line, what or message, todo if what else "mend the file")


def _invisible(lines: Sequence[str]) -> Iterator[Finding]:
    for number, line in enumerate(lines, start=1):
        for character in dict.fromkeys(line):
            if character.isascii() or (unicodedata.category(character) not in HIDDEN and character not in WIDE):
                continue
            name = WIDE.get(character, unicodedata.name(character, "unnamed character").lower())
            what = f"invisible character U+{ord(character):04X}, {name}"
            if character == "\ufeff" and number == 1 and line.startswith(character):
                yield Finding("note", 1, "a byte order mark begins the file", "save it as UTF-8 without one")
            elif character in BIDI or 0xE0000 <= ord(character) <= 0xE007F:
                yield Finding("error", number, f"{what}: the model reads other text than people see", "remove it")
            elif character in JOINERS:
                yield Finding("note", number, what, "remove it unless it joins parts of a word or an emoji")
            else:
                yield Finding("warning", number, what, "write a plain space" if character in WIDE else "remove it")


def _inputs(prompt: Prompt, lines: Sequence[str]) -> Iterator[Finding]:
    start = body_start(lines)
    for name in prompt.inputs or {}:
        if name not in prompt.variables:
            line = line_of(rf"(^|[{{,\s'\"]){re.escape(name)}['\"]?\s*:", lines[:start])
            yield Finding("warning", line, f"input {name!r} is declared and never used", "use it or remove it")
    if prompt.inputs is None and (bare := [name for name in prompt.variables if name not in prompt.specs]):
        declared = ", ".join(f"{name}: {{maxTokens: 500, truncate: end}}" for name in bare)
        yield Finding("note", None, f"inputs are not declared: {', '.join(bare)}", f"add 'inputs: {{{declared}}}'")
    for name in prompt.variables:
        spec = prompt.specs.get(name)
        if spec is not None and spec.type == "string" and not (spec.maxLength or spec.maxTokens or spec.enum):
            line = line_of(rf"(^|[{{,\s'\"]){re.escape(name)}['\"]?\s*:", lines[:start])
            what = f"input {name!r} has no limit: a long text fills the context, and then it is an error"
            yield Finding("note", line, what, "give it 'maxTokens' and 'truncate', or 'maxLength'")
    if prompt.examples is not None and EXAMPLES not in prompt.template.variables:
        loop = "{% for example in examples %}…{% endfor %}"
        yield Finding("warning", line_of(r"^examples\b", lines), "examples are given and never shown", f"write {loop}")


def _labels(prompt: Prompt, lines: Sequence[str]) -> Iterator[Finding]:
    choices = prompt.output.choices or ()
    line = line_of(r"\bchoices\b", lines)
    for label in choices:
        if label != label.strip():
            what = f"the answer {label!r} begins or ends in a space: it is cut into other tokens than {label.strip()!r}"
            yield Finding("warning", line, what, "take the spaces off; the one before an answer is put there by itself")
    plain = {choice: _plain(choice) for choice in choices}
    seen: dict[str, str] = {}
    for label in choices:
        if (other := seen.setdefault(plain[label], label)) != label:
            what = f"the answers {other!r} and {label!r} differ only in case or spaces"
            yield Finding("error", line, what, "rename one of them")
    for label, other in beginnings({choice: plain[choice] for choice in seen.values()}):
        what = f"the answer {other!r} begins like {label!r}: a model can mean both by the same words"
        yield Finding("warning", line, what, "choose answers that differ from their first word on")


def beginnings(choices: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of choices where what stands for the first begins what stands for the second, or is all of it."""
    first: str | None = None
    for choice in sorted(choices, key=lambda choice: choices[choice]):  # what begins alike stands together
        if first is not None and choices[choice][: len(choices[first])] == choices[first]:
            yield first, choice
        else:
            first = choice


def _use(name: str) -> str:
    """Where a template reads a variable."""
    return rf"\{{[{{%][^{{}}%]*\b{re.escape(name)}\b"


def _plain(label: str) -> str:
    return unicodedata.normalize("NFKC", " ".join(label.split())).casefold()


def _end(prompt: Prompt, lines: Sequence[str]) -> Iterator[Finding]:
    ended = prompt.body.rstrip()
    blank = prompt.body[len(ended) :]
    line = len(lines) - (1 if lines[-1] == "" else 0)
    if blank.strip(" \n"):
        yield Finding("warning", line, f"the prompt ends in {blank!r}", "end it in a word or a sign")
    elif blank.endswith(" "):
        what = "the prompt ends in a space: the answer's first token would begin without its own"
        yield Finding("warning", line, f"{what} (a local backbone takes it off, a remote one reads it)", "remove it")
    elif "\n" in blank and prompt.output.choices:
        what = "the prompt ends a line: answers begin a line, and have other tokens there than behind a word"
        yield Finding("note", line, what, "end it behind the last word unless that is meant")


def _turns(prompt: Prompt, lines: Sequence[str]) -> Iterator[Finding]:
    row = sample_row(prompt)
    if row is None:
        return
    try:
        pieces = prompt.place(row)
    except ForewordError as error:
        yield Finding("error", None, f"rendered with {row!r:.100}: {error}", "mend the template for such inputs")
        return
    turns = [piece.role for piece in pieces if isinstance(piece, Turn)]
    if not turns:
        return
    start = body_start(lines)

    def at(role: str) -> int | None:
        return line_of(rf"\{{\{{[-+]?\s*{role}\s*\(", lines, start)

    first = next(i for i, piece in enumerate(pieces) if isinstance(piece, Turn))
    if any(isinstance(piece, Text) and piece.text.strip() for piece in pieces[:first]):
        what = f"text stands before the first turn, {turns[0]}()"
        yield Finding("error", at(turns[0]), what, "put {{ system() }} or {{ user() }} before it")
    if "system" in turns[1:]:
        yield Finding(
            "error", at("system"), "system() is not the first turn", "put it first: many models refuse it elsewhere"
        )
    talk = [role for role in turns if role != "system"]
    if talk and talk[0] == "assistant":
        yield Finding("warning", at("assistant"), "the assistant speaks first", "begin with {{ user() }}")
    for one, other in pairwise(talk):
        if one == other:
            what = f"two turns of {one} follow each other: many chat templates refuse that"
            yield Finding("error" if one == "assistant" else "warning", at(one), what, "join them")
            break
    if not talk:
        yield Finding("warning", at("system"), "nobody but the system speaks", "add {{ user() }} before the inputs")


def _against(
    prompt: Prompt, columns: Sequence[str] | None, choices: Sequence[str] | None, lines: Sequence[str]
) -> Iterator[Finding]:
    if columns is not None:
        for name in prompt.variables:
            if name not in columns and prompt.specs.get(name, ANY_INPUT).default is None:
                line = line_of(_use(name), lines, body_start(lines))
                yield Finding("error", line, f"the task has no column {name!r}: {list(columns)}", "rename one of them")
        for name in columns:
            if name not in prompt.variables:
                yield Finding("warning", None, f"the task's column {name!r} is not shown", f"write {{{{ {name} }}}}")
        try:
            prompt.answering(tuple(choices) if choices is not None else None)
        except UsageError as error:
            what, _, todo = str(error).partition("; ")
            yield Finding("error", line_of(r"\bchoices\b", lines), what, todo)
