"""A card: what a person reads about a prompt before using it, in Markdown. Knows prompts; knows no models, no places.

Whatever strangers wrote is shown as they wrote it and can neither break the page nor stand for something else; what
looks like a key or a password is masked.
"""

import json
import keyword
import math
import re
import shlex
import unicodedata
from collections.abc import Mapping
from typing import Any

from foreword.errors import UsageError
from foreword.prompts import ANY_INPUT, Prompt
from foreword.redact import redact
from foreword.table.stored import Stored

MAX_STRATEGIES = 100
SENTENCE = 10_000
SIGNS = re.compile(r"[\\`*_\[\]<>|~&!#$:@]|(?<=www)\.", re.IGNORECASE)
BEGINS = re.compile(r"\A(\d*)([-+=.)])")
"""What means something inside a line, or, below, at its beginning; ':' and '@' would make links of addresses."""
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of signs that nobody sees, or that turn the direction of others."""


def card_text(prompt: Prompt, entry: Stored | None = None, result: Mapping[str, Any] | None = None) -> str:
    """The card of a prompt; `entry` is what the table knows of it, `result` what `foreword compare` found.

    Raises UsageError where `result` is no such thing.
    """
    parts = [f"# {inline(prompt.name)}"]
    if prompt.description:
        parts.append(_text(prompt.description))
    parts += [_what(prompt), _table([("", "")], _facts(prompt, entry))]
    parts += ["## Template", block(redact(prompt.body), "jinja"), *_beside(prompt), "## Inputs", _inputs(prompt)]
    parts += ["## Answer", _answer(prompt)]
    if prompt.soft is not None:
        parts += ["## How it was learned", _learned(prompt)]
    if result is not None:
        parts += ["## How it scored", *_scores(prompt, result)]
    parts += ["## How to use it", *_use(prompt)]
    return "\n\n".join(parts) + "\n"


def _text(text: str, limit: int = SENTENCE) -> str:
    return inline(redact(text), limit)


def _table(heads: list[tuple[str, ...]], rows: list[tuple[str, ...]]) -> str:
    """A table; every cell is safe already."""
    width = len(heads[0])
    lines = [f"| {' | '.join(heads[0])} |", "|" + "---|" * width]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _what(prompt: Prompt) -> str:
    if not prompt.virtual_tokens:
        return "A hard prompt: text that runs on any model."
    tokens = f"{prompt.virtual_tokens:,} virtual tokens"
    if prompt.soft is None:
        return f"A start for tuning: {tokens} without vectors. It cannot be run yet."
    return f"A soft prompt: {tokens}, learned on the backbone {_text(prompt.soft.backbone)}, and of use on no other."


def _facts(prompt: Prompt, entry: Stored | None) -> list[tuple[str, ...]]:
    rows = [("digest", f"`{prompt.digest}`")]
    if entry is not None:
        created = entry.created.strftime("%Y-%m-%d %H:%M UTC")
        rows = [("version", str(entry.version)), ("stored", created), ("author", _text(entry.author)), *rows]
        if entry.message:
            rows.append(("message", _text(entry.message)))
    rows.append(("labelled rows", f"{prompt.labelled_rows:,}"))
    return list(rows)


def _beside(prompt: Prompt) -> list[str]:
    """What the template shows that does not stand in it."""
    parts = [
        f"It includes {_text(ref)}, the version of digest `{partial.prompt.digest}`:\n\n"
        + block(redact(partial.prompt.body), "jinja")
        for ref, partial in prompt.includes.items()
    ]
    if prompt.examples is not None:
        many, fields = (
            len(prompt.examples.rows or ()),
            prompt.examples.model_dump(exclude={"rows"}, exclude_defaults=True),
        )
        said = "".join(f", {key} {value}" for key, value in fields.items() if key != "choose")
        parts.append(f"It has {many:,} example{'s' * (many != 1)}, chosen {prompt.examples.choose}{_text(said)}.")
    return parts


def _inputs(prompt: Prompt) -> str:
    declared = prompt.specs
    names = [*prompt.variables, *(name for name in declared if name not in prompt.variables)]
    if not names:
        return "None."
    rows: list[tuple[str, ...]] = []
    for name in names:
        fields = declared[name].model_dump(mode="json", exclude_defaults=True) if name in declared else {}
        kind, said = fields.pop("type", "string"), fields.pop("description", "")
        limits = ", ".join(f"{key} {value}" for key, value in fields.items())
        rows.append((inline(name), inline(str(kind)), _text(limits), _text(said)))
    return _table([("input", "type", "limits", "")], rows)


def _answer(prompt: Prompt) -> str:
    output = prompt.output
    if output.json_schema is not None:
        schema = json.dumps(output.json_schema, indent=2, ensure_ascii=False)
        return f"JSON that fits this schema:\n\n{block(redact(schema), 'json')}"
    if output.choices is None:
        return "Free text."
    prior = ", calibrated by a prior of its own" if output.log_prior is not None else ""
    return f"One of {len(output.choices)}{prior}:\n\n" + "\n".join(f"- {_text(choice)}" for choice in output.choices)


def _learned(prompt: Prompt) -> str:
    soft = prompt.soft
    assert soft is not None
    numbers = sum(tensor.size for tensor in soft.tensors.values())
    return _table(
        [("", "")],
        [
            ("method", _text(soft.method)),
            ("virtual tokens", f"{len(soft):,}"),
            ("numbers stored", f"{numbers:,}"),
            ("numbers trained", f"{soft.trained_parameters:,}"),
            ("labelled rows", f"{prompt.labelled_rows:,}"),
            ("backbone", _text(soft.backbone)),
            ("its fingerprint", _text(soft.fingerprint)),
            ("run", _text(soft.run)),
        ],
    )


def _scores(prompt: Prompt, result: Mapping[str, Any]) -> list[str]:
    """The strategies of a comparison, each metric with its interval."""
    try:
        strategies = list(result["strategies"])[:MAX_STRATEGIES]
        rows = [_score(prompt, strategy) for strategy in strategies]
        said = [result["task"], result["backbone"], result.get("verdict", "")]
        if not rows or not all(isinstance(text, str) for text in said):
            raise ValueError
        count = int(result["test_rows"]) if "test_rows" in result else None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError("that is no result of 'foreword compare'; give the file that --json or --out wrote") from None
    task, backbone, verdict = map(_text, said)
    on = f" on {count:,} rows" if count is not None else ""
    parts = [
        f"The task {task}{on}, backbone {backbone}; with 95 % intervals.",
        _table([("strategy", "kind", "score", "labelled rows")], rows),
    ]
    return [*parts, verdict] if verdict else parts


def _score(prompt: Prompt, strategy: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = []
    for name, found in strategy["metrics"].items():
        value, low, high = (float(found[key]) for key in ("value", "low", "high"))
        if not all(map(math.isfinite, (value, low, high))):
            raise ValueError
        metrics.append(f"{_text(str(name))} {value:.3f} ({low:.3f} to {high:.3f})")
    name = _text(str(strategy["name"]))
    if strategy["name"] == prompt.name:
        name = f"**{name}**"
    return name, _text(str(strategy["kind"])), ", ".join(metrics), f"{int(strategy['rows']):,}"


def _use(prompt: Prompt) -> list[str]:
    soft = prompt.soft
    backbone = redact(soft.backbone) if soft is not None else "smollm2-135m"
    shell = ["foreword prompts pull WHERE_THIS_CARD_LIES", f"foreword run {prompt.name}"]
    if soft is not None:
        shell[1] += f" --backbone {shlex.quote(backbone)}"
    needed = [name for name in prompt.variables if prompt.specs.get(name, ANY_INPUT).default is None]
    shell[1] += "".join(f" --input {name}=…" for name in needed)
    plain = [name for name in needed if not keyword.iskeyword(name)]
    arguments = [f'{name}="…"' for name in plain]
    arguments += [f'**{{"{name}": "…"}}' for name in needed if name not in plain]
    python = [
        "import foreword as fw",
        "",
        f"prompt = fw.PromptTable.open().get({prompt.name!r})",
        f"model = fw.Backbone.load({backbone!r})",
        f"print(model.generate({', '.join(['prompt', *arguments])}))",
    ]
    return [block("\n".join(shell), "sh"), block("\n".join(python), "python")]


def inline(text: str, limit: int = 1_000) -> str:
    """One line of text in which no sign means anything and no sign is hidden."""
    text = visible(" ".join(text.split()))
    text = f"{text[: limit - 1]}…" if len(text) > limit else text
    return BEGINS.sub(r"\1\\\2", SIGNS.sub(r"\\\g<0>", text))


def block(text: str, language: str = "") -> str:
    """Text in a fence that is longer than any in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def visible(text: str) -> str:
    """Text with its hidden signs written out by number; line ends and tabs stay."""
    return "".join(
        f"\\u{ord(sign):04x}" if unicodedata.category(sign) in HIDDEN and sign not in "\n\t" else sign for sign in text
    )
