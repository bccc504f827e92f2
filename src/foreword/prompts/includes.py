"""Partials: prompts whose text others include by reference. Knows bounds and pins; not where prompts are kept.

`{% include "house-style@prod" %}` stands for the text of a stored prompt. Whoever reads a prompt brings a resolver that
gives the prompt for a reference, so that an include never reaches a file. What a reference meant when the prompt was
read is pinned by version and digest, in its file and so in its own digest: the prompt renders the same ever after.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from foreword.errors import ForewordError
from foreword.prompts.template import MAX_INCLUDES, MAX_TOKENS, included

if TYPE_CHECKING:
    from foreword.prompts.prompt import Prompt

Resolve = Callable[[str], "Prompt"]
"""The prompt that a reference stands for: `PromptTable.get`, for one. Raises ForewordError where there is none."""


class Pin(BaseModel):
    """What a reference stood for, as the front matter has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int | None = Field(default=None, ge=1)
    digest: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Partial:
    """A prompt that another one includes."""

    prompt: "Prompt"
    version: int | None = None
    """In the table; None for one that was not stored yet when it was read."""

    @property
    def pin(self) -> Pin:
        return Pin(version=self.version, digest=self.prompt.digest)


def read_partials(body: str, source: str, pins: Mapping[str, Pin], resolve: Resolve | None) -> dict[str, Partial]:
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
        partials[ref] = _read(ref, source, pins.get(ref), resolve)
        tokens += partials[ref].prompt.template.tokens
        if tokens > MAX_TOKENS:
            raise ForewordError(f"{source!r} includes more than {MAX_TOKENS:,} variables, texts and signs; shorten it")
    return partials


def _read(ref: str, source: str, pin: Pin | None, resolve: Resolve) -> Partial:
    name = ref.partition("@")[0].partition(":")[0]
    at = f"{name}:{pin.version}" if pin is not None and pin.version is not None else ref
    try:
        prompt = resolve(at)
    except ForewordError as error:
        raise ForewordError(f"{source!r} includes {ref!r}: {error}") from error
    check_partial(source, ref, prompt)
    if pin is not None and prompt.digest != pin.digest:
        raise ForewordError(
            f"{source!r} includes {ref!r}, but {at!r} is not what it was when this was written; bring the one with "
            f"digest {pin.digest[:12]} into the table, or remove its line under 'includes' to take what is there now"
        )
    return Partial(prompt, pin.version if pin is not None else None)


def check_partial(name: str, ref: str, prompt: "Prompt") -> None:
    """Refuse a partial that is more than text and variables."""
    if prompt.virtual_tokens:
        raise ForewordError(f"prompt {name!r} includes {ref!r}, which has virtual tokens; include text only")
    if prompt.examples is not None:
        raise ForewordError(f"prompt {name!r} includes {ref!r}, which has examples; move them into {name!r}")
