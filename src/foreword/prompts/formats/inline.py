"""A prompt with what it includes written out, for formats that know no includes. It renders the same."""

from foreword.prompts.formats.jinja import put, tokens
from foreword.prompts.formats.sketch import Body
from foreword.prompts.inputs import Input
from foreword.prompts.prompt import Prompt
from foreword.prompts.template import Template, includes, new_environment


def inlined(prompt: Prompt) -> Prompt:
    """`prompt` without includes: their text stands in its body, and what they declare of inputs among its own.

    Raises ForewordError where the text is too long for one prompt, which its parts may be together.
    """
    if not prompt.includes:
        return prompt
    body = Body()
    _write(prompt.template, body)
    inputs = dict(prompt.specs)
    if inputs:
        inputs |= {name: Input() for name in prompt.variables if name not in inputs}
    return prompt.replace(body=str(body), includes={}, inputs=inputs or prompt.inputs)


def _write(template: Template, body: Body) -> None:
    places = includes(new_environment(), template.source)
    for _, kind, text in tokens(template.source, new_environment()):
        if kind == "block" and text.split(maxsplit=1)[0].startswith("include"):
            ref, ends_line = next(places)
            _write(template.partials[str(ref)], body)
            body.literal("\n" if ends_line else "")
        else:
            put(body, kind, text)
