"""Formats of other programs: what they can hold comes back, what they cannot is said, and hostile files do nothing."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Input, Output, Partial, Prompt, SoftTokens, Text, Turn, formats
from foreword.prompts.formats.inline import inlined
from foreword.prompts.formats.sketch import Each, If, Mark, Node, Var, from_body, joined, to_body
from within import within

FILES = Path(__file__).parent / "files"
WORDS = ["a", "\n", " ", "{", "}", "\\", "<", '"', "user", "#", "%", "-", "é", "{%", "{{", "{{q}}", "`"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map("".join)
INPUTS: dict[str, Any] = {"q": "Q {x} {{ y }}", "s": "", "xs": [{"n": "A"}, {"n": "B\n"}]}


def parts(depth: int, item: str | None) -> st.SearchStrategy[tuple[Node, ...]]:
    names = [("q",), ("s",)] + ([(item, "n")] if item else [])
    node: st.SearchStrategy[Node] = TEXTS | st.sampled_from(names).map(Var)
    if depth:
        inside = parts(depth - 1, item)
        node |= st.builds(If, st.sampled_from(names[:2]), inside, st.just(()) | inside)
        if item is None:
            node |= st.builds(Each, st.just(("xs",)), st.just("it"), parts(depth - 1, "it"), st.just(()) | inside)
    return st.lists(node, min_size=1, max_size=4).map(joined)


@st.composite
def prompts(draw: st.DrawFn, depth: int = 2) -> tuple[tuple[Node, ...], Prompt]:
    nodes: list[Node] = []
    for role in draw(st.sampled_from([(), (), ("system", "user"), ("user", "assistant", "user")])):
        nodes += [Mark(role), *draw(parts(depth, None))]
    found = tuple(nodes) or draw(parts(depth, None))
    plain = Prompt("p", to_body(found))
    inputs = {name: Input(type="array" if name == "xs" else "string") for name in plain.variables}
    return found, plain.replace(inputs=inputs or None)


def meant(nodes: tuple[Node, ...], values: dict[str, Any]) -> str:
    """What nodes say, by the plainest reading of them."""
    said = ""
    for node in nodes:
        match node:
            case str():
                said += node
            case Mark(role):
                said += f"<{role}>"
            case Var(path=path):
                value: Any = values
                for name in path:
                    value = value[name]
                said += value
            case Each(path=path, item=item):
                items = values[path[0]]
                said += "".join(meant(node.body, {**values, item: one}) for one in items)
                said += "" if items else meant(node.otherwise, values)
            case If(path=path):
                said += meant(node.then if values[path[0]] else node.otherwise, values)
    return said


def turns(prompt: Prompt) -> list[tuple[str, str]]:
    """What a model reads: role and content, line ends around it left out as the backbone leaves them out."""
    found: list[list[str]] = []
    for piece in prompt.render({name: INPUTS[name] for name in prompt.variables}):
        if isinstance(piece, Turn):
            found.append([piece.role, ""])
        elif isinstance(piece, Text):
            if not found:
                found.append(["user", ""])
            found[-1][1] += piece.text
    return [(role, text.strip("\n")) for role, text in found if text.strip("\n")]


@settings(deadline=None, max_examples=50)
@given(prompts())
def test_a_template_says_what_its_nodes_mean(made: tuple[tuple[Node, ...], Prompt]) -> None:
    nodes, prompt = made
    pieces = prompt.render({name: INPUTS[name] for name in prompt.variables})
    said = "".join(f"<{p.role}>" if isinstance(p, Turn) else p.text for p in pieces if isinstance(p, Turn | Text))
    assert said == meant(nodes, INPUTS)
    assert meant(from_body(prompt, "nodes"), INPUTS) == said


OUTPUTS = [
    Output(choices=("a", "b")),
    Output(choices=("a", "b"), log_prior=(-0.5, -1.0)),
    Output(schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    Output(schema={"type": "array", "items": {"enum": ["a", 1]}, "description": "Ä"}),
]


@settings(deadline=None, max_examples=50)
@given(prompts(), st.sampled_from([name for name in formats.FORMATS if name != "text"]), st.sampled_from(OUTPUTS))
def test_what_is_written_is_read_again(made: tuple[tuple[Node, ...], Prompt], form: str, output: Output) -> None:
    prompt = made[1].replace(description="What it is", output=output, labelled_rows=3)
    try:
        text, losses = formats.write(prompt, form)
    except ForewordError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "cannot be written" in refused or "would " in refused or "has no variables" in refused
        return
    again, _ = formats.read(text, form, "p", "file")
    if form in ("dotprompt", "langchain", "mlflow", "prompty"):
        for field in ("name", "description", "inputs", "output", "labelled_rows"):
            assert getattr(again, field) == getattr(prompt, field), field
    else:
        assert {"'description'", "'output'", "'labelled_rows'"} <= set(losses)
        assert ("'inputs'" in losses) == (prompt.inputs is not None)
    sent, back = turns(prompt), turns(again.replace(inputs=prompt.inputs))
    if any("blanks" in loss for loss in losses):
        sent, back = ([(role, text.strip()) for role, text in side] for side in (sent, back))
    assert [turn for turn in back if turn[1]] == [turn for turn in sent if turn[1]]


@settings(deadline=None, max_examples=50)
@given(prompts())
def test_plain_jinja_renders_the_same_elsewhere(made: tuple[tuple[Node, ...], Prompt]) -> None:
    prompt = made[1]
    text, _ = formats.write(prompt, "jinja")
    calls = {role: (lambda role=role: f"<{role}>") for role in ("system", "user", "assistant")}
    assert Environment().from_string(text).render(**INPUTS, **calls) == meant(made[0], INPUTS)


JINJA = ["a", "\n", "  ", "{% if q %}", "{%- if q -%}", "{%+ if s %}", "{% endif %}", "{# b #}", "{{ q }}", "{", "}",
         "{% raw %}{{ z {% endraw %}"]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(JINJA), max_size=10).map("".join))
def test_jinja_of_others_renders_as_it_does_there(source: str) -> None:
    try:
        expected = Environment().from_string(source).render(q="Q", s="")
    except Exception:
        return
    prompt, _ = formats.read(source, "jinja", "p", "file")
    pieces = prompt.render({name: {"q": "Q", "s": ""}[name] for name in prompt.variables})
    assert "".join(piece.text for piece in pieces if isinstance(piece, Text)) == expected


TICKETS = Prompt(
    "tickets",
    "{{ system() }}You sort {{ kind }} tickets.\n{{ user() }}Tags: {% for tag in tags %}- {{ tag }}\n{% endfor %}"
    "{% if note %}({{ note }}){% else %}no note{% endif %}\n{{ text }}",
    {"kind": Input(), "tags": Input(type="array"), "note": Input(description="Why"), "text": Input(maxLength=400)},
    Output(choices=("billing", "technical")),
    description="Who answers",
    labelled_rows=2,
)
SIMPLE = TICKETS.replace(
    name="simple",
    body="{{ system() }}Sort {braces} now.\n{{ user() }}{{ text }}\n{{ assistant() }}The team is",
    inputs={"text": Input(maxLength=400)},
)
HELD = [
    ("tickets.dotprompt", "dotprompt", TICKETS),
    ("tickets.prompty", "prompty", TICKETS),
    ("tickets.mlflow.json", "mlflow", TICKETS),
    ("simple.langchain.json", "langchain", SIMPLE),
    ("simple.openai.json", "openai", SIMPLE),
]


@pytest.mark.parametrize(("file", "form", "prompt"), HELD)
def test_the_files_that_the_other_programs_were_seen_to_read_are_still_written(
    file: str, form: str, prompt: Prompt
) -> None:
    """The files were rendered by langchain-core 1.8, prompty 2.1, dotpromptz 0.2 and mlflow 3.17 to the same texts."""
    assert formats.write(prompt, form)[0] == (FILES / file).read_text()


OTHERS = [
    ("people.dotprompt", "dotprompt",
     {"people": [{"name": "Ann", "job": ""}, {"name": "Bo", "job": "cook"}], "q": "Hi"},
     [("system", "Known:\n- Ann (0)\n- Bo, cook (1)"), ("user", "Hi, literal {{q}}")],
     ["'model'", "'config'", "input.'default'", "the input 'q' is optional"]),
    ("old.prompty", "prompty", {"question": "Why?"},
     [("system", "You are kind.\n\nVery."), ("user", "Why?")],
     ["input 'question': 'sample'", "'authors'", "'model'", "'sample'"]),
    ("saved.langchain.json", "langchain", {"word": "hot"},
     [("user", "Opposites.\n\nword: big\nopposite: small\n\nword: hot\nopposite:")],
     ["the list of examples: they are written out in the text"]),
    ("chat.langchain.json", "langchain", {"q": "Hi"},
     [("system", "Be kind in German."), ("user", "Hi {x}")],
     ["the place of the messages 'history'", "'output_parser'"]),
    ("api.mlflow.json", "mlflow", {"q": "Hi"}, [("user", "Say {{ not a name }}: Hi")],
     ["'version'", "tag 'team'", "the name 'Say_it' is 'say_it' here"]),
    ("request.json", "openai", {"q": "Hi"}, [("system", "Be brief."), ("user", "Hi {% x %}")],
     ["'model'", "'temperature'", "the role 'developer': it is 'system' here", "message 2: 'name'"]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "form", "inputs", "expected", "lost"), OTHERS)
def test_files_of_others_are_read_and_what_is_lost_is_listed(
    file: str, form: str, inputs: dict[str, Any], expected: list[tuple[str, str]], lost: list[str]
) -> None:
    text = (FILES / file).read_text()
    if form != "dotprompt":
        assert formats.guess(text, FILES / file) == form
    prompt, losses = formats.read(text, form, "file", file)
    inputs_of = {name: Input(type="array") for name, value in inputs.items() if isinstance(value, list)}
    prompt = prompt.replace(inputs=inputs_of | {name: Input() for name in inputs if name not in inputs_of})
    found: list[tuple[str, str]] = []
    for piece in prompt.render(inputs):
        if isinstance(piece, Turn):
            found.append((piece.role, ""))
        elif isinstance(piece, Text):
            role, said = found.pop() if found else ("user", "")
            found.append((role, said + piece.text))
    assert [(role, said.strip("\n")) for role, said in found] == expected
    assert [loss for loss in lost if loss not in losses] == []
    assert "sk-" not in str(losses)


SLOW = [
    ("dotprompt", "\\{{" + "\\" * 190_000),
    ("dotprompt", "{{{x}}" * 30_000),
    ("dotprompt", "{{!-- }}" * 20_000),
    ("dotprompt", "{{#if x}}" + " " * 180_000 + "a{{/if}}"),
    ("prompty", "user:\n" + " " * 180_000 + "a"),
    ("prompty", "user[" * 30_000),
    ("openai", json.dumps([{"role": "user", "content": "{{" * 90_000}])),
    ("jinja", "{% if x %}" * 5_000),
    ("fstring", "{{" * 90_000 + "{"),
    ("mlflow", json.dumps({"template": "{{" + " " * 180_000})),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text"), SLOW)
def test_no_text_takes_long_to_read(form: str, text: str) -> None:
    with within(1), contextlib.suppress(ForewordError):
        formats.read(text, form, "p", "file")


SOFT = Prompt("soft", "{{ virtual(1) }}{{ text }}")


@pytest.mark.parametrize(
    ("form", "text", "why"),
    [
        ("dotprompt", "x {{> part}}", "line 1: a partial"),
        ("dotprompt", "a\n{{media url=x}}", "line 2: the helper 'media'"),
        ("dotprompt", "{{#each xs}}", "'#each' is not closed"),
        ("dotprompt", "{{/if}}", "closes no block"),
        ("dotprompt", "{{else}}", "'else' without"),
        ("dotprompt", "{{#custom x}}{{/custom}}", "the block '#custom x'"),
        ("dotprompt", "{{../x}}", "leads out of the inputs"),
        ("dotprompt", "{{constructor.prototype.__proto__}}", "cannot be the name|out of reach|'__proto__'"),
        ("dotprompt", '{{role "tool"}}', "no role 'tool'"),
        ("dotprompt", "{{#if x}}" * 40, "nested more than 16"),
        ("dotprompt", "{{a}}" * 6_000, "more than 5,000 tags"),
        ("dotprompt", "---\na: &a [x]\nb: *a\n---\nx", "aliases"),
        ("dotprompt", "---\nname: !!python/object/apply:os.system [ls]\n---\nx", "no YAML"),
        ("prompty", "---\nmodel: {key: sk-abc\n---\nx", "the front matter, line [23] is no YAML"),
        ("dotprompt", "---\nname: x\n", "does not end"),
        ("prompty", "---\ntemplate: mustache\n---\nx", "template format 'mustache'"),
        ("prompty", "system:\n{{ ''.__class__ }}", "out of reach"),
        ("prompty", "system:\n{% include 'x' %}", "include"),
        ("prompty", "---\na: " + "[" * 60 + "]" * 60 + "\n---\nx", "nested more than 32"),
        ("jinja", "a\n{{ x|attr('y') }}", "line 2: no filter 'attr'"),
        ("jinja", "{% set x = 1 %}", "'assign' is not part"),
        ("jinja", "{{ x ", "line 1"),
        ("jinja", "{{ " + "1" * 9_999 + " }}", "cannot be read|mend"),
        ("fstring", "a\n{x.__class__}", "line 2: {x.__class__} is more than"),
        ("fstring", "{x!r}", "{x!r} is more than"),
        ("fstring", "{0}", "{0} is more than"),
        ("fstring", "{x", "line 1"),
        ("fstring", "{true}", "a variable cannot be called 'true'"),
        ("dotprompt", "{{not}}", "a variable cannot be called 'not'"),
        ("openai", '[{"role": "user", "content": "{{ None }}"}]', "a variable cannot be called 'None'"),
        ("mlflow", '{"tags": [{"key": ["a"], "value": 1}, 5]}', "no 'template'"),
        ("langchain", "{}", "'template' is missing"),
        ("langchain", '{"_type": "prompt", "template_path": "/etc/passwd"}', "in another file, which is not read"),
        ("langchain", '{"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}', "'secret' holds no prompt"),
        ("langchain", '{"lc": 1, "type": "constructor", "id": ["x", "Tool"], "kwargs": {}}', "'Tool' cannot be"),
        ("langchain", '{"_type": "few_shot", "examples": "/etc/passwd"}', "examples stand in another file"),
        ("langchain", '{"_type": "prompt", "template": "{{#a}}{{/a}}", "template_format": "mustache"}', "'#a'"),
        ("openai", "[]", "no list of messages"),
        ("openai", '[{"role": "tool", "content": "x"}]', "message 1 has the role 'tool'"),
        ("openai", '[{"role": "user", "content": [{"type": "image_url"}]}]', "message 1 holds more than text"),
        ("openai", '[{"role": ["user"], "content": 1}]', "message 1 has the role"),
        ("openai", "[" * 100_000, "no JSON"),
        ("openai", "[NaN]", "no JSON"),
        ("mlflow", '{"tags": {"mlflow.prompt.text": "[1", "_mlflow_prompt_type": "chat"}}', "no JSON"),
        ("mlflow", '{"template": 3}', "no 'template'"),
        ("mlflow", '{"template": "x", "tags": {"foreword": "{\\"output\\": {\\"choices\\": [1]}}"}}', "'choices.0'"),
        ("text", "x" * 1_000_001, "1,000,000 at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(form: str, text: str, why: str) -> None:
    with pytest.raises(ForewordError, match=why.replace("{", r"\{")) as caught:
        formats.read(text, form, "p", "the.file")
    assert str(caught.value).startswith(f"'the.file' as {form}: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("form", "body", "why"),
    [
        *((form, SOFT.body, "has virtual tokens, which") for form in formats.FORMATS),
        ("langchain", "a\n{{ x | upper }}", "line 2: the filter 'upper' cannot be written in LangChain's f-strings"),
        ("langchain", "{% for x in xs %}{{ x }}{% endfor %}", "a loop cannot be written"),
        ("openai", "{% if a %}{{ user() }}{% endif %}", "a turn inside a loop or a condition"),
        ("openai", "{% raw %}{{ x }}{% endraw %}", "would become a variable"),
        ("mlflow", "x {% raw %}{% y{% endraw %}", "would be read as Jinja"),
        ("prompty", "{{ user() }}a\nassistant:\nb", "would begin a turn in Prompty"),
        ("dotprompt", "{{ loop }}{% for x in y %}{{ loop.length }}{% endfor %}", "'loop.*' cannot be written"),
        ("fstring", "{{ user() }}x", "a turn cannot be written in an f-string"),
        ("text", "{{ x }}", "plain text has no variables such as 'x'"),
    ],
)
def test_what_cannot_be_written_is_named(form: str, body: str, why: str) -> None:
    with pytest.raises(ForewordError, match=why):
        formats.write(Prompt("p", body), form)


def test_a_soft_prompt_says_where_it_can_go() -> None:
    assert SOFT.soft is None or isinstance(SOFT.soft, SoftTokens)
    with pytest.raises(ForewordError, match="take --format peft, or share it whole"):
        formats.write(SOFT, "openai")


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("a.prompty", "x", "prompty"),
        ("a.j2", "x", "jinja"),
        ("a.txt", "x", "text"),
        ("a.prompt", '{{role "user"}}', "dotprompt"),
        ("a.json", '{"template": "x"}', "mlflow"),
        ("a.json", "[]", "openai"),
        ("a.json", '{"_type": "prompt"}', "langchain"),
    ],
)
def test_a_format_is_told_by_ending_and_text(name: str, text: str, form: str) -> None:
    assert formats.guess(text, Path(name)) == form


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [("a.txt", "{x}", "--format dotprompt"), ("a.json", "1", "not clear"), ("a.prompt", "x", "'foreword prompts add'")],
)
def test_an_unclear_format_is_asked_for(name: str, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        formats.guess(text, Path(name))
    with pytest.raises(UsageError, match="there is no format 'pickle'"):
        formats.format_of("pickle")


SEEDS = [(case[1], (FILES / case[0]).read_text()) for case in OTHERS]
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=6) | st.sampled_from(["user", "constructor", "{x}", "{{x}}"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["lc", "type", "id", "kwargs", "template", "tags", "messages", "role", "content", "examples",
                         "_type", "prompt", "metadata", "foreword", "inputs", "output", "name"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


NOISE = ["{{", "}}", "{%", "---\n", "*", "&a ", "\\", '"', "[", "!!x "]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_file_breaks_a_reader(data: st.DataObject) -> None:
    form, text = data.draw(st.sampled_from(SEEDS))
    start = data.draw(st.integers(0, len(text)))
    noise = data.draw(
        st.text(max_size=5) | st.sampled_from(["{{", "}}", "{%", "---\n", "*", "&a ", "\\", '"', "[", "!!x "])
    )
    altered = text[:start] + noise + text[start + data.draw(st.integers(0, 20)) :]
    anything = data.draw(st.text(max_size=30) | JSON.map(json.dumps))
    for source in (altered, anything):
        for name in (form, data.draw(st.sampled_from(sorted(formats.FORMATS)))):
            try:
                prompt, losses = formats.read(source, name, "p", "file")
            except ForewordError:
                continue
            assert isinstance(prompt, Prompt)
            assert all(isinstance(loss, str) and len(loss) < 300 for loss in losses)


@pytest.mark.parametrize("form", ["jinja", "prompty", "mlflow"])
def test_what_plain_jinja_renders_otherwise_is_listed(form: str) -> None:
    body = "{% for row in rows %}{{ loop.index }}{{ row.items | tojson }}{% endfor %}"
    prompt = Prompt("p", body, {"rows": Input(type="array")})
    row = {"items": "<é>"}
    text, losses = formats.write(prompt, form)
    assert prompt.render({"rows": [row]}) == (Text('1"<é>"'),)
    if form == "jinja":
        assert Environment().from_string("{{ x | tojson }}").render(x="<é>") == r'"\u003c\u00e9\u003e"'
        assert "method" in Environment().from_string("{{ row.items }}").render(row=row)
    for found in (losses, formats.read(text, form, "p", "file")[1]):
        assert any(loss.startswith("'tojson' to the letter") for loss in found)
        assert ".items: plain Jinja may take it for a method of the value" in found


PLAIN = (
    "x", " ", "\n", "  \n", "{{ a }}", "{% if a %}\ny\n{% endif %}\n", "  {# said #}\n", "{ ", "{{ user() }}",
    "{% raw %}{{ a {% endraw %}\n", "{%- if a -%} z {%- endif %}", "  {% for i in [a, a] %}\n {{ i }}\n{% endfor %}",
)  # fmt: skip
PART = ('{% include "p" %}', '{% include "p" %}\n', '  {%- include "p" -%}\n')
PARTS = (*PART, '{%include"q@r"+%}', '  {% include "q@r" %}')


def bodies(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=6).map("".join)


@settings(deadline=None, max_examples=200)
@given(bodies(*PLAIN), bodies(*PLAIN, *PART), bodies(*PLAIN, *PARTS))
def test_what_is_included_is_written_out_and_renders_the_same(first: str, second: str, top: str) -> None:
    p = Prompt("p", first)
    q = Prompt("q", second, includes={"p": Partial(p)} if '"p"' in second else {})
    used = {"p": Partial(p), "q@r": Partial(q)}
    prompt = Prompt("top", top, includes={ref: used[ref] for ref in used if f'"{ref}"' in top})
    alone = inlined(prompt)
    assert not alone.includes
    assert alone.variables == prompt.variables
    for value in ("", "{{ b }}\n"):
        row = dict.fromkeys(prompt.variables, value)
        assert alone.render(row) == prompt.render(row)


def test_a_part_goes_with_its_inputs_to_every_format() -> None:
    style = Prompt("style", "Be {{ tone }}.", {"tone": Input(enum=("plain", "kind"), default="plain")})
    prompt = Prompt("top", '{% include "style" %} {{ text }}', includes={"style": Partial(style, 1)})
    for form in formats.FORMATS:
        if form == "text":
            continue
        text, losses = formats.write(prompt, form)
        assert "the includes 'style': their text is written out" in losses
        assert formats.read(text, form, "top", "file")[0].variables == ("text", "tone")
    text, _ = formats.write(prompt, "dotprompt")
    assert "required: [text]" in text
    assert formats.read(text, "dotprompt", "top", "file")[0].specs["tone"] == style.specs["tone"]


def test_a_format_to_write_is_told_by_the_ending() -> None:
    for name, form in (("a.prompty", "prompty"), ("a.j2", "jinja"), ("a.txt", "text"), ("folder", "peft")):
        assert formats.guess_for(Path(name)) == form
    for name in ("a.json", "a.prompt", "a.pdf"):
        with pytest.raises(UsageError, match=r"--format dotprompt\|fstring"):
            formats.guess_for(Path(name))
