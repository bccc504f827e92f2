"""Includes: a partial stands where it is included, within the same bounds, and as it was when it was pinned."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Examples, Input, Partial, Prompt, Text, Turn
from foreword.prompts.prompt import Resolve
from within import within

INCLUDE = '{% include "part" %}'


def having(**prompts: Prompt) -> Resolve:
    def resolve(ref: str) -> Prompt:
        if ref not in prompts:
            raise UsageError(f"there is no prompt {ref!r}")
        return prompts[ref]

    return resolve


PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r{"))


@settings(deadline=None)
@given(PLAIN, PLAIN, PLAIN)
def test_a_partial_reads_as_if_it_stood_there(before: str, inside: str, after: str) -> None:
    part = Prompt("part", f"<{inside}>{{{{ x }}}}.")
    whole = Prompt("p", f"{before}{INCLUDE}{after}|", includes={"part": Partial(part)})
    indent = before[len(before.rstrip(" \t\v\f\x1c\x1d\x1e\x1f\x85\u00a0")) :]
    written = Prompt("p", f"{before}<{inside}>{{{{ x }}}}.{after}|")
    if not indent and (not before or before[-1] != "\n"):
        assert whole.render({"x": "1"}) == written.render({"x": "1"})
    assert whole.variables == ("x",)


def test_loops_conditions_turns_and_variables_reach_into_a_partial() -> None:
    line = Prompt("line", "{{ user() }}{% if item.ok %}{{ item.text }}{% endif %}")
    body = "{{ system() }}Go.\n{% for item in items %}\n{% include 'line:2' %}\n{% endfor %}"
    prompt = Prompt("p", body, {"items": Input(type="array")}, includes={"line:2": Partial(line)})
    assert prompt.variables == ("items",)
    pieces = prompt.render({"items": [{"ok": True, "text": "a"}, {"ok": False}]})
    assert pieces == (Turn("system"), Text("Go.\n"), Turn("user"), Text("a\n"), Turn("user"), Text("\n"))


def test_what_a_partial_declares_holds_unless_the_prompt_declares_it_too() -> None:
    part = Prompt("part", "{{ tone }}", {"tone": Input(enum=("dry", "warm"), default="dry")})
    prompt = Prompt("p", INCLUDE + "{{ text }}", {"text": Input()}, includes={"part": Partial(part)})
    assert prompt.render({"text": "a"}) == (Text("drya"),)
    with pytest.raises(UsageError, match="'loud' is not one of"):
        prompt.render({"text": "a", "tone": "loud"})
    own = prompt.replace(inputs={"text": Input(), "tone": Input()})
    assert own.render({"text": "a", "tone": "loud"}) == (Text("louda"),)


def test_what_was_read_is_pinned_in_the_file_and_in_the_digest() -> None:
    one, other = Prompt("part", "One."), Prompt("part", "Other.")
    prompt = Prompt.from_text(f"---\nname: p\n---\n{INCLUDE}", "p.prompt", resolve=having(part=one))
    assert one.digest in prompt.to_text()
    assert prompt.digest != prompt.replace(includes={"part": Partial(other)}).digest
    assert Prompt.from_text(prompt.to_text(), "p.prompt", resolve=having(part=one)).digest == prompt.digest
    with pytest.raises(ForewordError, match=r"includes 'part', but 'part' is not what it was .*remove its line"):
        Prompt.from_text(prompt.to_text(), "p.prompt", resolve=having(part=other))
    stored = prompt.replace(includes={"part": Partial(one, version=3)})
    again = Prompt.from_text(stored.to_text(), "p.prompt", resolve=having(part=other, **{"part:3": one}))
    assert again.render({}) == (Text("One."),)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{% include 'gone' %}", "includes 'gone': there is no prompt"),
        ("{% include '/etc/passwd' %}", "there is no prompt"),
        ("{% include '../part.prompt' %}", "there is no prompt"),
        ("{% include x %}", "one stored prompt in quotes"),
        ("{% include ['part', 'gone'] %}", "one stored prompt in quotes"),
        ("{% include 'part' ignore missing %}", "one stored prompt in quotes"),
        ("{% include 'part' without context %}", "one stored prompt in quotes"),
        ("{% include 'pa' 'rt' %}", "stored prompt|no partial|there is no prompt|expected"),
        ("{% include %}", "line 1"),
        ("{% include 'soft' %}", "virtual tokens"),
        ("{% include 'shown' %}", "has examples"),
        ("{% for a in x %}{% for b in x %}{% include 'loop' %}{% endfor %}{% endfor %}", "loops can be nested 2"),
        ("".join(f"{{% include 'p{i}' %}}" for i in range(21)), "includes 21 prompts, 20 at most"),
    ],
)
def test_what_cannot_be_included_is_refused(body: str, why: str) -> None:
    shown = Prompt("shown", "{{ examples }}", examples=Examples(rows=({"a": "b"},)))
    loop = Prompt("loop", "{% for c in x %}{% endfor %}")
    resolve = having(part=Prompt("part", "a"), soft=Prompt("soft", "{{ virtual(2) }}"), shown=shown, loop=loop)
    with pytest.raises(ForewordError, match=why):
        Prompt.from_text(f"---\nname: p\n---\n{body}", "p.prompt", resolve=resolve)


def test_without_a_resolver_nothing_is_included() -> None:
    with pytest.raises(ForewordError, match=r"kept in a prompt table; read it with Prompt\.load\(path, resolve="):
        Prompt.from_text(f"---\nname: p\n---\n{INCLUDE}", "p.prompt")
    with pytest.raises(ForewordError, match="there is no partial 'part'"):
        Prompt("p", INCLUDE)
    with pytest.raises(ForewordError, match="'includes' has 'part', which the body does not include"):
        Prompt.from_text(f"---\nname: p\nincludes: {{part: {{digest: {'a' * 64}}}}}\n---\nx", "p.prompt")


def test_partials_inside_partials_are_bounded_in_depth_and_size() -> None:
    prompt = Prompt("p0", "a")
    for depth in range(1, 6):
        prompt = Prompt(f"p{depth}", INCLUDE, includes={"part": Partial(prompt)})
    assert prompt.render({}) == (Text("a"),)
    with pytest.raises(ForewordError, match="includes more than 5 deep"):
        Prompt("p6", INCLUDE, includes={"part": Partial(prompt)})
    with within(1):
        laughs = Prompt("p0", "{{x}}" * 10)
        for depth in (1, 2):
            laughs = Prompt(f"p{depth}", INCLUDE * 14, includes={"part": Partial(laughs)})
        with pytest.raises(ForewordError, match="more than 20,000 variables, texts and signs with what it includes"):
            Prompt("p3", INCLUDE * 4, includes={"part": Partial(laughs)})
        long = Partial(Prompt("long", "a" * 70_000))
        with pytest.raises(ForewordError, match="210,060 characters with what it includes, 200,000 at most"):
            Prompt("p", INCLUDE * 3, includes={"part": long})
