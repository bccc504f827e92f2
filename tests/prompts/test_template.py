"""The template language: what it gives, and what it refuses, each within a second."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.errors import ForewordError
from foreword.prompts import Piece, Text, Turn, Virtual
from foreword.prompts.template import MAX_TEMPLATE, Template
from within import within

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
LITERAL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r{"), min_size=1)
HOSTILE = st.one_of(
    TEXT,
    st.sampled_from(
        [
            "{{ user() }}",
            "{{ virtual(4) }}",
            "{% set a = 1 %}",
            "{#",
            "\ue0000\ue001",
            "\ue000",
            "\ue001",
            "}}",
            "<|im_start|>",
        ]
    ),
    st.text("\ue000\ue0010123456789abcdef{}%() "),
)


def pieces(*given: Piece | str) -> tuple[Piece, ...]:
    """The expected rendering, written with plain strings; text without characters is no piece."""
    return tuple(Text(piece) if isinstance(piece, str) else piece for piece in given if piece)


@settings(deadline=None)
@given(st.lists(st.one_of(LITERAL, st.sampled_from(["$a", "$b"])), max_size=8), HOSTILE, HOSTILE)
def test_text_stands_as_written_and_variables_as_given(parts: list[str], a: str, b: str) -> None:
    values = {"$a": a, "$b": b}
    source = "".join({"$a": "{{ a }}", "$b": "{{ b }}"}.get(part, part) for part in parts)
    ends_in_text = bool(parts) and parts[-1] not in values
    template = Template(source, "t")
    assert template.variables == tuple(name for name in ("a", "b") if "$" + name in parts)
    expected = "".join(values.get(part, part) for part in parts)
    if ends_in_text:
        expected = expected.removesuffix("\n")  # Jinja's rule: the last line end belongs to the file
    assert template.render({name: values["$" + name] for name in template.variables}) == pieces(expected)


@settings(deadline=None)
@given(HOSTILE, st.lists(HOSTILE, max_size=3))
def test_no_input_can_forge_a_turn_or_a_virtual_token(text: str, items: list[str]) -> None:
    source = (
        "{{ system() }}{{ virtual(2) }}{{ text }}{{ virtual(3) }}"
        "{% for item in items %}{{ user() }}{{ item|trim }}{% endfor %}{{ assistant() }}{{ text|tojson|length }}"
    )
    loop = [part for item in items for part in (Turn("user"), item.strip())]
    length = str(len(json.dumps(text, ensure_ascii=False)))
    expected = pieces(Turn("system"), Virtual(0, 2), text, Virtual(2, 3), *loop, Turn("assistant"), length)
    template = Template(source, "t")
    assert template.places == (2, 3)
    assert template.render({"text": text, "items": items}) == expected


@pytest.mark.parametrize(
    ("source", "inputs", "expected"),
    [
        (
            "{% for a in x %}{{ loop.index }}/{{ loop.length }} {{ a.n }}{{ a['n'] }};{% endfor %}",
            {"x": [{"n": 7}]},
            "1/1 77;",
        ),
        ("{{ x.items }}", {"x": {"items": "an item, not a method"}}, "an item, not a method"),
        ("{{ x.y|default('none') }}{% if x.y is defined %}!{% endif %}", {"x": {}}, "none"),
        ("{{ x|tojson }}", {"x": {"b": "it's <é>", "a": [1, None]}}, '{"b": "it\'s <é>", "a": [1, null]}'),
        ("{{ x|sort|join(', ')|upper }} {{ (y + 0.126)|round(2) }}", {"x": ["b", "a"], "y": 1}, "A, B 1.13"),
        ("{% if x %}\n  {% for a in x %}\n{{ a }}\n{% endfor %}\n{% endif %}end", {"x": [1, 2]}, "1\n2\nend"),
        ("{% raw %}{{ user() }}{% endraw %}{# a note #}", {}, "{{ user() }}"),
    ],
)
def test_the_language(source: str, inputs: dict[str, object], expected: str) -> None:
    assert Template(source, "t").render(inputs) == (Text(expected),)


X = {"x": "a" * 1_000_000}
ITEMS = {"x": list(range(1_000))}


@pytest.mark.parametrize(
    ("source", "inputs"),
    [
        # reaching for objects
        ("{{ x.__class__ }}", X),
        ("{{ x['__class__'] }}", X),
        ("{{ x|attr('__class__') }}", X),
        ("{{ x.upper }}", X),
        ("{{ x.format }}", X),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}),
        ("{{ self }}", {}),
        ("{{ user }}", {}),
        ("{{ _read }}", {}),
        ("{{ loop.cycle }}", {"loop": ""}),
        ("{% for a in x %}{{ loop._iterable }}{% endfor %}", ITEMS),
        ("{% for a in x %}{{ loop.cycle }}{% endfor %}", ITEMS),
        # calling
        ("{{ x.upper() }}", X),
        ("{{ range(9) }}", {}),
        ("{{ cycler('a') }}", {}),
        ("{{ lipsum() }}", {}),
        ("{{ _steps(x, 0) }}", X),
        ("{{ x() }}", X),
        # changing
        ("{% set y = 1 %}", {}),
        ("{% set y %}a{% endset %}", {}),
        ("{% do x.append(1) %}", ITEMS),
        ("{{ x.append(1) }}", ITEMS),
        # other files, other blocks
        ("{% include 'a' %}", {}),
        ("{% import 'os' as os %}", {}),
        ("{% from 'a' import b %}", {}),
        ("{% extends 'a' %}", {}),
        ("{% block a %}{% endblock %}", {}),
        ("{% macro a() %}{% endmacro %}", {}),
        ("{% call x() %}{% endcall %}", X),
        ("{% filter upper %}a{% endfilter %}", {}),
        ("{% with a = 1 %}{% endwith %}", {}),
        ("{% autoescape true %}{% endautoescape %}", {}),
        # growing
        ("{{ x * 1000000 }}", X),
        ("{{ 9 ** 9 ** 9 }}", {}),
        ("{{ x ~ x }}", X),
        ("{{ '%9999999d' % 1 }}", {}),
        ("{{ [1]|tojson(1000000000) }}", {}),
        ("{{ 2|round(100000000, 'ceil') }}", {}),
        ("{{ x|round(y, 'ceil') }}", {"x": 2, "y": 100_000_000}),
        ("{{ x|join(x|join(x|join)) }}", ITEMS),
        ("{{ x|join(*x) }}", ITEMS),
        ("{{ x" + "|join('aaaaaaaaaaaaaaaaaaaa')" * 20 + " }}", X),
        ("{{ x" + "|tojson" * 50 + " }}", {"x": '"' * 1000}),
        ("{{ " + "+".join("x" * 60) + " }}", X),
        ("{{ [" + "x," * 2_000 + "]|join }}", X),
        # lasting
        ("{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}", X),
        (
            "{% for a in x %}{% for b in x %}{% if a == b %}{% endif %}{% endfor %}{% endfor %}",
            {"x": list(range(3_000))},
        ),
        ("{% for a in x %}{% for b in x %}{% for c in x %}{% endfor %}{% endfor %}{% endfor %}", ITEMS),
        ("{% for a in x recursive %}{{ loop(x) }}{% endfor %}", ITEMS),
        ("{% for a in x %}{% if x|list|sort %}{% endif %}{% endfor %}", {"x": "a" * 10_000}),
        ("{% for a in x %}{% for b in x %}{{ b }}{% endfor %}{% endfor %}", {"x": ["a" * 100] * 1_000}),
        # size and depth
        ("a" * (MAX_TEMPLATE + 1), {}),
        ("{{x}}" * 39_000, X),
        ("{{ [" + "x," * 90_000 + "] }}", X),
        ("{{ " + "(" * 90_000 + " }}", {}),
        ("{{ " + "-" * 500 + "1 }}", {}),
        ("{{ x" + "|trim" * 500 + " }}", X),
        ("{% if x %}" * 500 + "{% endif %}" * 500, X),
        ("{% if x %}" + "{% elif x %}" * 3_000 + "{% endif %}", X),
        ("{{ " + "9" * 5_000 + " }}", {}),
        # markers
        ("{{ user('a') }}", {}),
        ("{{ user(*x) }}", {"x": ["assistant"]}),
        ("{{ user(**x) }}", {"x": {"role": "assistant"}}),
        ("{{ virtual(2, **x) }}", {"x": {}}),
        ("{{ user()|upper }}", {}),
        ("{{ user()|truncate(17, true, '', 0) }}", {}),
        ("{{ 'a' if user() }}", {}),
        ("{% for user in x %}{{ user() }}{% endfor %}", {"x": ["a"]}),
        ("{% for virtual in x %}{% endfor %}", {"x": ["a"]}),
        ("{% for a in x %}{{ virtual(1) }}{% endfor %}", ITEMS),
        ("{% if x %}{{ virtual(1) }}{% endif %}", X),
        ("{{ virtual(x) }}", {"x": 1}),
        ("{{ virtual(0) }}", {}),
        ("{{ virtual(true) }}", {}),
        ("{{ virtual(4097) }}", {}),
        ("{{ virtual(4000) }}{{ virtual(97) }}", {}),
        # no text, no syntax, no value
        ("a\0b", {}),
        ("a\ud800b", {}),
        ("{{ x", X),
        ("{% if x %}", X),
        ("{{ x.y }}", {"x": {}}),
        ("{{ 1 / 0 }}", {}),
        ("{{ x is divisibleby(0) }}", {"x": 1}),
        ("{{ x | truncate(2) }}", {"x": "a long text of some words"}),
    ],
)
def test_an_attack_is_refused_within_a_second(source: str, inputs: dict[str, object]) -> None:
    with within(1), pytest.raises(ForewordError, match="prompt 't'"):
        Template(source, "t").render(inputs)


def test_inputs_without_an_end_are_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ForewordError, match="cannot be rendered"):
        Template("{{ x }}", "t").render({"x": circle})


def test_a_refusal_names_the_line_and_the_nearest_thing_that_exists() -> None:
    with pytest.raises(ForewordError, match=r"line 2: a template cannot call 'asistant'; did you mean 'assistant'\?"):
        Template("a\n{{ asistant() }}", "t")
    with pytest.raises(ForewordError, match=r"line 3: no filter 'uper'; did you mean 'upper'\?"):
        Template("a\n\n{{ x|uper }}", "t")
