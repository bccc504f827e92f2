"""Plain text without variables: braces are braces."""

from foreword.errors import ForewordError
from foreword.prompts.formats.common import Losses, check_size, own
from foreword.prompts.formats.jinja import refuse_soft
from foreword.prompts.formats.sketch import Var, from_body, plain, to_body
from foreword.prompts.prompt import Prompt


def read(text: str, name: str) -> tuple[Prompt, Losses]:
    check_size(text)
    return Prompt(name, to_body((text,))), []


def write(prompt: Prompt) -> tuple[str, Losses]:
    refuse_soft(prompt, "plain text")
    written = ""
    for part in plain(from_body(prompt, "plain text"), prompt.name, "plain text"):
        if isinstance(part, Var):
            raise ForewordError(
                f"prompt {prompt.name!r}: plain text has no variables such as {part.path[0]!r}; "
                "take --format fstring or jinja"
            )
        written += part
    return written, [f"{key!r}" for key in own(prompt)]
