"""Lint: each fault is found on its line, and a sound prompt has none."""

from pathlib import Path

import pytest

from foreword.errors import ForewordError
from foreword.prompts.lint import lint_text

SOUND = """---
name: sound
inputs: {text: {maxLength: 200}}
output: {choices: [negative, positive]}
---
{{ system() }}
Classify reviews.
{{ user() }}
{{ text }}
"""


def found(text: str, **more: object) -> list[tuple[str, int | None, str]]:
    return [(f.severity, f.line, f.what) for f in lint_text(text, "p.prompt", **more)[1]]


def test_a_sound_prompt_has_no_findings() -> None:
    assert found(SOUND) == []
    assert found(SOUND.replace("\n", "\r\n"), columns=("text",), choices=("negative", "positive")) == []
    assert lint_text("Say {{ x }}", "dir/My file.prompt")[0].name == "my-file"


HEAD = "---\ninputs: {text: {maxLength: 9}}\n"


@pytest.mark.parametrize(
    ("text", "severity", "line", "what"),
    [
        (HEAD + "---\nx\n", "warning", 2, "'text' is declared and never used"),
        (HEAD + "---\na\n{{ txt }}\n", "error", 5, "'txt' is not declared"),
        (HEAD + "---\na\n{{ text|uper }}\n", "error", 5, "no filter 'uper'"),
        ("---\nname: a b\n---\nx", "error", None, "prompt name 'a b'"),
        ("---\n#\na: b\n---\nx", "error", 3, "no key 'a'"),
        ("---\nname: a\ndescription: b: c\n---\nx", "error", 3, "this is no YAML: line 3"),
        ("{{ text }}.", "note", None, "inputs are not declared: text"),
        ("---\ninputs:\n  text: {}\n---\n{{ text }}.", "note", 3, "'text' has no limit"),
        ("---\noutput: {choices: [yes., no., Yes.]}\n---\nx", "error", 2, "'yes.' and 'Yes.' differ only in case"),
        ("---\noutput: {choices: ['a b', 'a  B']}\n---\nx", "error", 2, "differ only in case or spaces"),
        ("---\noutput: {choices: [good, bad, good enough]}\n---\nx", "warning", 2, "'good enough' begins like 'good'"),
        ("---\noutput: {choices: [' a', b]}\n---\nx", "warning", 2, "begins or ends in a space"),
        ("one\nAnswer: ", "warning", 2, "ends in a space"),
        ("one\nAnswer: \n", "warning", 2, "ends in a space"),
        ("one\nAnswer:\t", "warning", 2, r"ends in '\t'"),
        ("---\noutput: {choices: [a, b]}\n---\nx\n\n", "note", 5, "ends a line"),
        ("{{ user() }}a{{ system() }}b", "error", 1, "system() is not the first turn"),
        ("{{ system() }}\na\n{{ assistant() }}b", "warning", 3, "the assistant speaks first"),
        ("{{ user() }}a\n{{ user() }}b", "warning", 1, "two turns of user follow each other"),
        ("a {{ user() }}b", "error", 1, "text stands before the first turn"),
        ("{{ system() }}a", "warning", 1, "nobody but the system speaks"),
        ("a\nb\u200bc", "warning", 2, "U+200B, zero width space"),
        ("a\nb\u00a0c", "warning", 2, "U+00A0, non-breaking space"),
        ("a\nif \u202e x", "error", 2, "U+202E, right-to-left override"),
        ("a\U000e0041", "error", 1, "U+E0041"),
        ("\ufeffa", "note", 1, "byte order mark"),
        ("a\n\ufeffb", "warning", 2, "U+FEFF"),
        ("\u0645\u06cc\u200c\u062e", "note", 1, "U+200C"),
        ("---\nexamples: {rows: [{a: b}]}\n---\nx", "warning", 2, "examples are given and never shown"),
        ("{% include 'x' %}", "error", None, "includes 'x'"),
    ],
)
def test_a_fault_is_found_on_its_line(text: str, severity: str, line: int | None, what: str) -> None:
    assert any(s == severity and at == line and what in w for s, at, w in found(text)), found(text)


def test_turns_of_examples_are_in_order() -> None:
    loop = "{% for e in examples %}{{ user() }}{{ e.q }}{{ assistant() }}{{ e.a }}\n{% endfor %}{{ user() }}"
    front = "---\ninputs: {q: {maxLength: 9}}\nexamples: {rows: [{q: a, a: b}, {q: c, a: d}]}\n---\n"
    text = front + loop + "{{ q }}"
    assert found(text) == []


def test_a_task_is_held_against_the_prompt() -> None:
    against = found(SOUND, columns=("review", "text"), choices=("positive", "negative"))
    assert ("warning", None, "the task's column 'review' is not shown") in against
    assert any(
        s == "error" and line == 4 and "the task asks for ['positive', 'negative']" in w for s, line, w in against
    )
    assert any("no column 'text'" in what for _, _, what in found(SOUND, columns=("review",)))


def test_what_is_included_is_resolved(tmp_path: Path) -> None:
    def resolve(ref: str) -> object:
        raise ForewordError(f"there is no prompt {ref!r}; there is 'style'")

    findings = lint_text("{% include 'stile' %}", "p", resolve=resolve, folder=tmp_path)[1]
    assert [(f.what, f.todo) for f in findings] == [
        ("'p' includes 'stile': there is no prompt 'stile'", "there is 'style'")
    ]
