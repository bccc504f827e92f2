"""Partials in the table: read once each and never inside themselves; pinned by `put`. Knows no database."""

from collections.abc import Callable
from dataclasses import replace

from foreword.errors import ForewordError
from foreword.prompts import MAX_INCLUDE_DEPTH, MAX_INCLUDES, MAX_TEMPLATE, Prompt, Resolve
from foreword.table.refs import parse_ref


class Partials:
    """Reads one prompt with all that it includes. `load` gives the prompt for a reference, and asks this for others."""

    def __init__(self, load: "Callable[[str, Partials], Prompt]") -> None:
        self._load = load
        self._open: list[str] = []
        self._read: dict[str, Prompt] = {}
        self._characters = 0

    def __call__(self, ref: str) -> Prompt:
        if ref in self._read:
            return self._read[ref]
        chain = " includes ".join(map(repr, [*self._open, ref]))
        if ref in self._open:
            raise ForewordError(f"{chain}: a prompt cannot include itself; remove one of these includes")
        if len(self._open) > MAX_INCLUDE_DEPTH:
            raise ForewordError(f"{chain}: prompts include {MAX_INCLUDE_DEPTH} deep at most; flatten them")
        if len(self._read) > MAX_INCLUDES:
            raise ForewordError(
                f"{self._open[0]!r} includes more than {MAX_INCLUDES} prompts in all; join some of them"
            )
        self._open.append(ref)
        try:
            self._read[ref] = prompt = self._load(ref, self)
        finally:
            self._open.pop()
        return prompt

    @property
    def inside(self) -> bool:
        """Whether what is read now is included by another."""
        return len(self._open) > 1

    def charge(self, text: str) -> None:
        """Count the text of a partial before it is read: many large ones would take their time one by one."""
        self._characters += len(text) if self.inside else 0
        if self._characters > MAX_TEMPLATE:
            raise ForewordError(f"{self._open[0]!r} includes more than {MAX_TEMPLATE:,} characters in all; cut them")


def pinned(prompt: Prompt, version: Callable[[str, str], int | None]) -> Prompt:
    """`prompt` with the version of all that it includes; `version` finds one by name and digest.

    Raises ForewordError when the table does not have what was included when the prompt was read.
    """
    includes = {}
    for ref, partial in prompt.includes.items():
        name = parse_ref(ref).name
        number = version(name, partial.prompt.digest)
        if number is None:
            raise ForewordError(
                f"prompt {prompt.name!r} includes {ref!r}, and this table has no {name!r} with digest "
                f"{partial.prompt.digest[:12]}; put it there first"
            )
        includes[ref] = replace(partial, version=number)
    return prompt.replace(includes=includes) if includes else prompt


def resolve_pinned(prompt: Prompt) -> Resolve:
    """Resolves what is pinned in `prompt`, by version, without a table."""
    return {
        f"{parse_ref(ref).name}:{partial.version}": partial.prompt for ref, partial in prompt.includes.items()
    }.__getitem__
