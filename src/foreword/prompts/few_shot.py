"""Demonstrations in front of a prompt: a hard prompt with solved examples written out. Knows no tasks, no models."""

import re
from collections.abc import Mapping, Sequence

from foreword.errors import ForewordError
from foreword.prompts.pieces import Text, Turn
from foreword.prompts.prompt import Prompt, expect_prompt


def few_shot(prompt: Prompt, examples: Sequence[tuple[Mapping[str, object], str]]) -> Prompt:
    """`prompt` with solved `examples` (inputs, answer) before the row; the instruction stands once, at the top.

    The instruction is what stands before the last blank line above the first variable. In a chat prompt every
    example is a turn of the user and one of the assistant. The result is an ordinary prompt that can be read,
    edited and stored.
    """
    head, pattern = _instruction(expect_prompt(prompt).body)
    if prompt.examples is not None:
        raise ForewordError(f"prompt {prompt.name!r} has examples of its own; give a prompt without them")
    shot = Prompt(prompt.name, pattern, prompt.inputs, prompt.output, includes=prompt.includes)
    written = [head]
    for inputs, answer in examples:
        pieces = shot.render(inputs)
        roles = [piece.role for piece in pieces if isinstance(piece, Turn)]
        for piece in pieces:
            match piece:
                case Text(text):
                    written.append(escape(text))
                case Turn(role):
                    written.append(f"{{{{ {role}() }}}}")
        if not roles:  # the space before an answer comes with the answer; a brace may stand free behind it now
            written[-1] = re.sub(r"\{\Z", '{{ "{" }}', written[-1].rstrip(" "))
        turn = "{{ assistant() }}" if roles and roles[-1] != "assistant" else ""
        written.append(f"{turn}{escape(answer)}\n" if roles else f" {escape(answer)}\n\n")
    body = "".join(written) + pattern
    return prompt.replace(
        name=f"{prompt.name[:80]}-{len(examples)}-shot",
        body=body,
        output=prompt.without_prior().output,  # a matched prior fits one prompt only
        labelled_rows=prompt.labelled_rows + len(examples),
    )


def _instruction(body: str) -> tuple[str, str]:
    """Split a body into its instruction and the part that is repeated for every example."""
    first = re.search(r"\{\{(?![-+]?\s*(?:virtual|system|user|assistant)\s*\()|\{%(?![-+]?\s*include\b)", body)
    before = body[: first.start()] if first else body
    turns = list(re.finditer(r"\{\{[-+]?\s*user\s*\(\s*\)\s*[-+]?\}\}", before))
    cut = turns[-1].start() if turns else before.rfind("\n\n") + 2 if "\n\n" in before else 0
    head, pattern = body[:cut], body[cut:]
    if re.match(r"\s*\{[{%]-", pattern):  # '-' takes away the blanks before it: the instruction's, not an example's
        return head.rstrip(), pattern.lstrip().replace("-", "", 1)
    return head, pattern


def escape(text: str) -> str:
    """Text that Jinja will print as it is, whatever follows; a bare carriage return would become a line feed."""
    return re.sub(r"\{(?=[{%#\r]|\Z)", '{{ "{" }}', text).replace("\r", '{{ "\\r" }}')
