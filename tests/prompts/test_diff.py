"""What differs between two prompts, in words: a diff that is applied gives the other text, whatever the two are."""

import difflib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import foreword as fw
from foreword.errors import UsageError
from foreword.prompts import Input, Output, Partial, Prompt
from foreword.prompts.diff import Change, rendered, unified

OLD = """Classify the ticket.

Ticket: {{ text }}
One of: billing, technical

Be brief.
Be kind.
Be exact.
Be done.
Team:"""
NEW = OLD.replace("Ticket: {{ text }}", "Ticket:\n{{ text }}").replace("Be done.\n", "")


def applied(patch: list[str], text: str) -> str:
    """What `patch -u` does, written from the format's description: every line of a hunk must be where it says."""
    lines, made, at = text.split("\n"), [], 0
    for line in patch[2:]:
        if hunk := re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@", line):
            start = int(hunk[1]) - (hunk[2] != "0")
            made += lines[at:start]
            at = start
        elif line[0] == "+":
            made.append(line[1:])
        else:
            assert line[0] in " -"
            assert lines[at] == line[1:]
            made += [line[1:]] if line[0] == " " else []
            at += 1
    return "\n".join(made + lines[at:])


TEXTS = st.lists(st.sampled_from(["a", "b", "", "- c", "+ d", "@@ e"]) | st.text(max_size=3), max_size=30).map(
    "\n".join
)


@given(TEXTS, TEXTS, st.integers(0, 12))
def test_a_diff_applied_to_the_first_text_gives_the_second(old: str, new: str, shared: int) -> None:
    around = "\n".join(f"same {i}" for i in range(shared))
    for a, b in ((old, new), (f"{around}\n{old}\n{around}", f"{around}\n{new}\n{around}")):
        patch = unified(a, b, "a", "b")
        assert applied(patch, a) == b if patch else a == b
        assert bool(patch) == (a != b)


def test_it_reads_as_difflib_writes_it() -> None:
    for old, new in ((OLD, NEW), (NEW, OLD), (OLD, ""), ("one line", "another")):
        expected = difflib.unified_diff(old.split("\n"), new.split("\n"), "t:1", "t:2", lineterm="")
        assert unified(old, new, "t:1", "t:2") == list(expected)
    found = fw.diff(Prompt("t", OLD), Prompt("t", NEW), ("t:1", "t:2"))
    assert list(found.text) == unified(OLD, NEW, "t:1", "t:2"), "the bodies, without the front matter"


def test_long_texts_of_a_stranger_take_no_long_time() -> None:
    long = [str(i % 997) for i in range(60_000)]
    for old, new in (
        (long, long[::-1]),
        (long, [*long[:50_000], "changed", *long[50_001:]]),
        (["x"] * 100_000, ["x", "y"] * 40_000),
    ):
        began = time.process_time()
        patch = unified("\n".join(old), "\n".join(new), "a", "b")
        assert time.process_time() - began < 1
        assert applied(patch, "\n".join(old)) == "\n".join(new)
    assert len(unified("\n".join(long), "\n".join([*long[:50_000], "changed", *long[50_001:]]), "a", "b")) == 3 + 6 + 2


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({}, {}, []),
        ({}, {"description": "routes"}, [Change("description", None, "routes")]),
        ({"inputs": {"text": Input()}}, {"inputs": {"text": Input()}}, []),
        ({}, {"inputs": {"text": Input()}}, [Change("inputs.text", None, {})]),
        (
            {"inputs": {"text": Input(maxLength=9), "old": Input()}},
            {"inputs": {"text": Input(), "n": Input(type="array")}},
            [
                Change("inputs.text.maxLength", 9, None),
                Change("inputs.old", {}, None),
                Change("inputs.n.type", None, "array"),
            ],
        ),
        (
            {"output": Output(choices=("a", "b"), log_prior=(0.5, 1.0))},
            {"output": Output(choices=("b", "c"))},
            [Change("output.choices", ["a", "b"], ["b", "c"]), Change("output.log_prior", [0.5, 1.0], None)],
        ),
    ],
)
def test_front_matter_is_told_field_by_field(
    before: dict[str, object], after: dict[str, object], changes: list[Change]
) -> None:
    old, new = (Prompt("t", "{{ text }}").replace(**fields) for fields in (before, after))
    found = fw.diff(old, new)
    assert list(found.fields) == changes
    assert (found.text, found.soft, found.same) == ((), None, not changes)
    back = [Change(change.field, change.after, change.before) for change in changes]
    assert sorted(fw.diff(new, old).fields, key=str) == sorted(back, key=str)


def test_people_see_what_moved_and_what_cannot_be_seen() -> None:
    assert (
        str(Change("output.choices", ["a", "b"], ["b", "c"]))
        == 'output.choices: ["a", "b"] → ["b", "c"]  (+ "c", − "a")'
    )
    assert str(Change("output.choices", ["a", "b"], ["b", "a"])).endswith("(another order)")
    assert str(Change("description", None, "red\u200b")) == 'description: (none) → "red\\u200b"'
    found = fw.diff(Prompt("t", "Review: {{ text }}"), Prompt("t", "Review:\u200b {{ text }}\x1b[31m"))
    assert "+Review:\\u200b {{ text }}\\x1b[31m" in str(found)
    assert "+Review:\u200b {{ text }}\x1b[31m" in found.to_json()["text"]


def test_a_row_is_rendered_by_both() -> None:
    old = Prompt("t", "{{ user() }}{{ virtual(3) }}Say {{ text }}{{ assistant() }}")
    new = Prompt("t", "{{ user() }}{{ virtual(3) }}Say {{ tone }}: {{ text }}{{ assistant() }}")
    row = {"text": "one\ntwo", "tone": "calmly", "other": 1}
    assert rendered(old, new, row, "row 1", ("t:1", "t:2")) == [
        "--- t:1",
        "+++ t:2",
        "@@ -1,5 +1,5 @@",
        " <user>",
        "-<virtual 0 to 2>Say one",
        "+<virtual 0 to 2>Say calmly: one",
        " two",
        " <assistant>",
        " ",
    ]
    assert rendered(old, old, row, "row 1", ("t:1", "t:1")) == []
    with pytest.raises(UsageError, match="row 1: prompt 't' needs the input 'tone'"):
        rendered(old, new, {"text": "x"}, "row 1", ("t:1", "t:2"))


def test_what_is_included_is_compared_too_however_deep() -> None:
    def including(word: str) -> Prompt:
        tone = Prompt("tone", f"Be\n{word}.")
        style = Prompt("style", 'Short. {% include "tone" %}', includes={"tone": Partial(tone)})
        return Prompt("p", '{% include "style@prod" %} {{ q }}', includes={"style@prod": Partial(style)})

    found = fw.diff(including("kind"), including("brief"), ("p:1", "p:2"))
    names = ("--- p:1 includes style@prod includes tone", "+++ p:2 includes style@prod includes tone")
    assert found.text == (*names, "@@ -1,2 +1,2 @@", " Be", "-kind.", "+brief.")
    assert [change.field for change in found.fields] == ["includes.style@prod.digest"]
    assert fw.diff(including("kind"), including("kind")).text == ()
