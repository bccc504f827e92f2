"""What differs between two prompts: the front matter field by field, the text line by line, and the text of a row.

Knows no models and no table. What their vectors differ in is in `vector_diff`.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

from foreword.prompts.pieces import pieces_text
from foreword.prompts.prompt import Prompt, expect_prompt
from foreword.prompts.vector_diff import SoftDiff, soft_diff
from foreword.yaml_text import read_yaml

CONTEXT = 3
"""Equal lines that are shown around a change."""
MAX_PAIRS = 1_000_000
"""Pairs of lines that are matched with each other: difflib takes a second or two for as many, in the worst case."""


@dataclass(frozen=True)
class Change:
    """A field of the front matter that is not the same; None where a prompt lacks it."""

    field: str
    """Dotted: `inputs.text.maxLength`."""
    before: object
    after: object

    def __str__(self) -> str:
        said = f"{visible(self.field)}: {_shown(self.before)} → {_shown(self.after)}"
        if not _texts(self.before) or not _texts(self.after):
            return said
        moved = [f"+ {_shown(item)}" for item in self.after if item not in self.before]
        moved += [f"− {_shown(item)}" for item in self.before if item not in self.after]
        return f"{said}  ({', '.join(moved) or 'another order'})"


@dataclass(frozen=True)
class Diff:
    """What differs between prompts A and B. Make one with `diff`; `str` of it is for people, `to_json` for programs."""

    a: Prompt
    b: Prompt
    fields: tuple[Change, ...]
    text: tuple[str, ...]
    """The bodies as a unified diff, without line ends, and those of what both include; empty where they are the same.
    """

    @cached_property
    def soft(self) -> SoftDiff | None:
        """How far the vectors are apart; None where neither has any."""
        return soft_diff(self.a.soft, self.b.soft) if self.a.soft or self.b.soft else None

    @property
    def same(self) -> bool:
        """Whether the two are one prompt, vectors included."""
        return self.a.digest == self.b.digest

    def to_json(self) -> dict[str, Any]:
        """`same`, `fields`, `text`, `vectors`."""
        return {
            "same": self.same,
            "fields": [vars(change).copy() for change in self.fields],
            "text": list(self.text),
            "vectors": self.soft.to_json() if self.soft else None,
        }

    def __str__(self) -> str:
        lines = [*map(str, self.fields), *map(visible, self.text)]
        return "\n".join(lines + ([str(self.soft)] if self.soft else []))


def diff(a: Prompt, b: Prompt, names: tuple[str, str] | None = None) -> Diff:
    """What turns prompt `a` into prompt `b`; `names` head the lines of the text, by default the prompts' own."""
    (head_a, body_a), (head_b, body_b) = _parts(expect_prompt(a)), _parts(expect_prompt(b))
    differing = [name for name in dict.fromkeys([*head_a, *head_b]) if head_a.get(name) != head_b.get(name)]
    fields = [
        Change(name, head_a.get(name), head_b.get(name))
        for name in differing
        if not any(other.startswith(f"{name}.") for other in differing)  # what is in it says that it is there
    ]
    name_a, name_b = names or (a.name, b.name)
    text = unified(body_a, body_b, name_a, name_b)
    old, new = _partials(a), _partials(b)
    for path in old:
        if path in new:
            text += unified(old[path], new[path], f"{name_a} includes {path}", f"{name_b} includes {path}")
    return Diff(a, b, tuple(fields), tuple(text))


def _partials(prompt: Prompt, within: str = "") -> dict[str, str]:
    """The bodies of what a prompt includes, by reference, to the last one."""
    found: dict[str, str] = {}
    for ref, partial in prompt.includes.items():
        found[f"{within}{ref}"] = partial.prompt.body
        found |= _partials(partial.prompt, f"{within}{ref} includes ")
    return found


def rendered(a: Prompt, b: Prompt, row: Mapping[str, object], where: str, names: tuple[str, str]) -> list[str]:
    """How the texts differ that the two make of a row, as a unified diff: virtual tokens and turns stand as marks.

    Each takes its inputs out of `row`; raises UsageError that names `where` the row stands if one is missing.
    """
    texts = [pieces_text(prompt.replace(soft=None).render(prompt.take_texts(row, where))) for prompt in (a, b)]
    return unified(texts[0], texts[1], *names)


def unified(a: str, b: str, name_a: str, name_b: str) -> list[str]:
    """Two texts line by line. Where both are long beyond what can be matched, all between their equal ends differs."""
    old, new = a.split("\n"), b.split("\n")
    if old == new:
        return []
    shorter = min(len(old), len(new))
    same = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    end = next((i for i in range(shorter - same) if old[-1 - i] != new[-1 - i]), shorter - same)
    first, cut = max(0, same - CONTEXT), max(0, end - CONTEXT)
    old, new, same, end = old[first : len(old) - cut], new[first : len(new) - cut], same - first, end - cut
    groups = [_ends(len(old), len(new), same, end)]
    if len(old) * len(new) <= MAX_PAIRS:
        groups = list(difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT))
    lines = [f"--- {name_a}", f"+++ {name_b}"]
    for group in groups:
        (_, i, _, k, _), (_, _, j, _, m) = group[0], group[-1]
        lines.append(f"@@ -{_span(first + i, j - i)} +{_span(first + k, m - k)} @@")
        for kind, i, j, k, m in group:
            lines += [" " + line for line in old[i:j]] if kind == "equal" else ["-" + line for line in old[i:j]]
            lines += [] if kind == "equal" else ["+" + line for line in new[k:m]]
    return lines


def _ends(old: int, new: int, same: int, end: int) -> list[tuple[str, int, int, int, int]]:
    """Two texts of so many lines, of which only those at the ends are the same, as difflib's opcodes."""
    return [
        ("equal", 0, same, 0, same),
        ("replace", same, old - end, same, new - end),
        ("equal", old - end, old, new - end, new),
    ]


def _span(start: int, length: int) -> str:
    """As `diff -u` writes a range of lines: counted from 1, a length of 1 left out, one before an empty range."""
    return str(start + 1) if length == 1 else f"{start + (length > 0)},{length}"


def visible(text: str) -> str:
    """`text` with characters that cannot be seen, or that steer a terminal, written out: `\\u200b`, `\\x1b`."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def _parts(prompt: Prompt) -> tuple[dict[str, object], str]:
    """The fields of the canonical file by their dotted names, and its body."""
    head, _, body = prompt.to_text().removeprefix("---\n").partition("\n---\n")
    return dict(_flat(read_yaml(head, prompt.name))), body.removesuffix("\n")


def _flat(fields: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    """Leaves, and each mapping as `{}`: an input that is declared with nothing said about it is still declared."""
    for name, value in fields.items():
        yield f"{path}{name}", {} if isinstance(value, dict) else value
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")


def _texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _shown(value: object) -> str:
    return "(none)" if value is None else visible(json.dumps(value, ensure_ascii=False))
