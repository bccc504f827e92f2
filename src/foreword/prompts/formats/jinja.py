"""Plain Jinja: a template as other programs render it, with Jinja's own rules for white space. Knows no front matter.

Jinja leaves the line end behind a block and the blanks before it; Foreword takes them away. Both ways the text is
written so that it renders the same.
"""

import re
from collections.abc import Iterable, Iterator

from jinja2 import Environment, TemplateSyntaxError

from foreword.errors import ForewordError
from foreword.prompts.few_shot import escape
from foreword.prompts.formats.common import Losses, check_size, own
from foreword.prompts.formats.sketch import Body
from foreword.prompts.prompt import Prompt
from foreword.prompts.template import MAX_TOKENS, ROLES, new_environment

Token = tuple[int, str, str]
"""Line, kind, and text: `data` is plain text, `block` and `expression` what stands between their braces."""

METHODS = "|".join(sorted({name for kind in (dict, list, str) for name in dir(kind) if name[0] != "_"}))
METHOD = re.compile(rf"(?<!\bloop)\.\s*({METHODS})\b")
"""A value's name behind a dot that is a method's too."""


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    check_size(text)
    return Prompt(name, ours(text)), differences(tokens(text, Environment()))


def write(prompt: Prompt) -> tuple[str, Losses]:
    refuse_soft(prompt, "plain Jinja")
    losses = [f"{key!r}" for key in own(prompt)]
    losses += differences(tokens(prompt.body, new_environment()))
    used = {
        inner.removesuffix("()") for _, kind, inner in tokens(prompt.body, new_environment()) if kind == "expression"
    }
    if roles := [role for role in ROLES if role in used]:
        losses.append(f"turns: {', '.join(f'{role}()' for role in roles)} are functions that only Foreword has")
    return theirs(prompt.body), losses


def refuse_soft(prompt: Prompt, language: str) -> None:
    """Raises ForewordError for a prompt whose meaning is in its vectors."""
    if prompt.virtual_tokens:
        raise ForewordError(
            f"prompt {prompt.name!r} has virtual tokens, which {language} cannot hold; "
            "take --format peft, or share it whole with 'foreword prompts push'"
        )


def ours(source: str, *, keep_end: bool = False) -> str:
    """A body of Foreword's own that renders as plain Jinja renders `source`."""
    body = Body()
    for _, kind, text in tokens(source, Environment(keep_trailing_newline=keep_end)):
        put(body, kind, text)
    return str(body)


def put(body: Body, kind: str, text: str) -> None:
    """Writes one token."""
    match kind:
        case "data":
            body.literal(text)
        case "block":
            body.block(text)
        case _:
            body.expression(text)


def theirs(body: str) -> str:
    """Plain Jinja that renders as Foreword renders `body`."""
    text = "".join(map(source, tokens(body, new_environment())))
    return text + "\n" if text.endswith("\n") else text


def differences(found: Iterable[Token]) -> Losses:
    """What Foreword and plain Jinja render differently."""
    code = [text for _, kind, text in found if kind != "data"]
    losses = []
    if any(re.search(r"\|\s*tojson\b", text) for text in code):
        losses.append(
            "'tojson' to the letter: plain Jinja escapes <, >, &, ' and all that is not ASCII, Foreword does not"
        )
    methods = sorted({name for text in code for name in METHOD.findall(text)})
    if methods:
        losses.append(f"{', '.join(f'.{name}' for name in methods)}: plain Jinja may take it for a method of the value")
    return losses


def source(token: Token) -> str:
    """A token as plain Jinja has it."""
    _, kind, text = token
    if kind == "data":
        return escape(text)
    return f"{{% {text} %}}" if kind == "block" else f"{{{{ {text} }}}}"


def tokens(source: str, environment: Environment) -> Iterator[Token]:
    """The template's parts, white space as its environment leaves it; comments are left out."""
    inside: list[str] | None = None
    begun = 0
    try:
        for number, (line, kind, text) in enumerate(environment.lex(source)):
            if number > MAX_TOKENS:
                raise ForewordError(f"the template has more than {MAX_TOKENS:,} variables, texts and signs; shorten it")
            if kind in ("block_begin", "variable_begin"):
                inside, begun = [], line
            elif kind in ("block_end", "variable_end"):
                yield begun, "block" if kind == "block_end" else "expression", "".join(inside or ()).strip()
                inside = None
            elif inside is not None:
                inside.append(text)
            elif kind == "data":
                yield line, "data", text
    except TemplateSyntaxError as error:
        raise ForewordError(f"line {error.lineno}: {error.message}; mend the template") from None
    except ValueError as error:  # a number of thousands of digits
        raise ForewordError(f"the template cannot be read: {error}") from None
    if inside is not None:
        raise ForewordError(f"line {begun}: braces are opened and not closed; mend the template")
