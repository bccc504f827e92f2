"""Text with `{variables}` in Python's way. Knows no front matter."""

from collections.abc import Sequence
from string import Formatter

from foreword.errors import ForewordError
from foreword.prompts.formats.common import Losses, check_size, own
from foreword.prompts.formats.jinja import refuse_soft
from foreword.prompts.formats.sketch import Node, Var, from_body, joined, plain, to_body
from foreword.prompts.prompt import Prompt


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    check_size(text)
    return Prompt(name, to_body(nodes(text))), []


def write(prompt: Prompt) -> tuple[str, Losses]:
    refuse_soft(prompt, "an f-string")
    text = template(plain(from_body(prompt, "an f-string"), prompt.name, "an f-string"))
    return text, [f"{key!r}" for key in own(prompt)]


def nodes(text: str) -> tuple[Node, ...]:
    """Texts and variables. Raises ForewordError that names the line of what is more than a variable."""
    found: list[Node] = []
    line = 1
    try:
        for literal, variable, spec, conversion in Formatter().parse(text):
            found.append(literal)
            line += literal.count("\n")
            if variable is None:
                continue
            if not variable.isidentifier() or spec or conversion:
                shown = variable + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise ForewordError(
                    f"line {line}: {{{shown:.80}}} is more than a variable's name; "
                    "write {{ and }} for braces that are meant as text"
                )
            found.append(Var((variable,)))
    except ValueError as error:
        raise ForewordError(f"line {line} or below: {error}; write {{{{ and }}}} for braces") from None
    return joined(found)


def template(parts: Sequence[str | Var]) -> str:
    """The f-string of texts and variables."""
    return "".join(
        part.replace("{", "{{").replace("}", "}}") if isinstance(part, str) else f"{{{part.path[0]}}}" for part in parts
    )
