"""Attacks from outside end in an error within a second of CPU time and 100 MB, in a process that has no more."""

import contextlib
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.errors import ForewordError
from foreword.prompts import Prompt
from foreword.prompts.lint import lint_text

BOMBS = r"""
import resource, sys, time
from pathlib import Path
from foreword.errors import ForewordError
from foreword.prompts import Input, Partial, Prompt
from foreword.prompts.inputs import Input
from foreword.prompts.lint import lint_text
from foreword.table import PromptTable

Input(enum=("a",)).problem("a")  # loads the library
table = PromptTable.open(Path(sys.argv[1]) / "prompts.db")
full = "{{x}}" * 3_900
for i in range(8):
    table.put(Prompt(f"full{i}", full))
    table.put(Prompt(f"front{i}", "a", {f"i{k}": Input(description="a" * 100) for k in range(250)}))
table.put(Prompt("tree0", "{{x}}" * 100))
table.put(Prompt("loops", "{% for a in x %}{% for b in x %}{{ a }}{{ b }}{% endfor %}{% endfor %}"))
ROWS = "[" + ", ".join("{a: b}" for _ in range(1_000)) + "]"
LONG = "[" + ", ".join('{a: "' + "b" * 390 + '"}' for _ in range(100)) + "]"


def read(front, body="{{ x }}"):
    return lambda: Prompt.from_text(f"---\nname: p\n{front}\n---\n{body}", "p", resolve=table.get)


def render(front, body, **inputs):
    return lambda: read(front, body)().render(inputs)


def include(*refs, times=1):
    return "".join(f"{{% include '{ref}' %}}" for ref in refs) * times


def tower():
    prompt = table.get("tree0")
    for i in range(9):
        prompt = Prompt(f"t{i}", include("a", times=12), includes={"a": Partial(prompt)})


def linted(text):
    def go():
        _, findings = lint_text(text, "p")
        if any(finding.severity == "error" for finding in findings):
            raise ForewordError("found")
    return go


NESTED = "{% for a in examples %}{% for b in examples %}{{ a.a }}{{ b.a }}{% endfor %}{% endfor %}"
ATTACKS = {
    "twenty full partials": read("", include(*(f"full{i}" for i in range(8)))),
    "one full partial again and again": read("", include("full1", times=500)),
    "large front matter in every partial": read("", include(*(f"front{i}" for i in range(8))) + "{{ x() }}"),
    "laughs": tower,
    "loops in a partial in a loop": read("", "{% for c in x %}" + include("loops") + "{% endfor %}"),
    "a partial's loops over much": render("inputs: {x: {type: array}}", include("loops"), x=["a" * 1_000] * 1_000),
    "loops over examples": render(f"examples: {{rows: {ROWS}}}", NESTED),
    "loops over long examples": render(f"examples: {{rows: {LONG}}}", NESTED),
    "examples in filters": render(f"examples: {{rows: {LONG}}}", "{{ examples" + "|tojson" * 40 + " }}"),
    "examples joined": render(f"examples: {{rows: {LONG}}}",
                              "{{ examples|join('x')" + "|join('aaaaaaaaaaaaaaaaaaaa')" * 9 + " }}"),
    "too many rows": read("examples: {rows: [" + "{a: b}," * 6_000 + "]}"),
    "a large default": render("inputs: {x: {type: array, default: [" + "a," * 1_000 + "]}}",
                              "{% for a in x %}{% for b in x %}{{ x|join }}{% endfor %}{% endfor %}"),
    "a default of lists": read("inputs: {x: {type: array, default: " + "[" * 400 + "]" * 400 + "}}", "{{ y }}"),
    "patterns": read("inputs: {" + ", ".join(f"x{i}: {{pattern: '\\w{{{100 + i}}}'}}" for i in range(900)) + "}"),
    "four costly patterns": render(
        "inputs: {" + ", ".join(f"x{i}: {{pattern: '\w{{{110 + i}}}$'}}" for i in range(4)) + "}",
        "{{ x0 }}{{ x1 }}{{ x2 }}{{ x3 }}", x0="a" * 300, x1="a" * 300, x2="a" * 300, x3="a" * 300 + "-"),
    "costlier patterns": render(
        "inputs: {" + ", ".join(f"x{i}: {{pattern: '\\w{{{190 + i}}}$'}}" for i in range(4)) + "}",
        "{{ x0 }}{{ x1 }}{{ x2 }}{{ x3 }}", x0="a" * 300, x1="a" * 300, x2="a" * 300, x3="a" * 300 + "-"),
    "a pattern that backtracks": render("inputs: {x: {pattern: '^(a|a|aa)+$'}}", "{{ x }}", x="a" * 900_000 + "b"),
    "enums": read("inputs: {" + ", ".join(f"x{i}: {{enum: [a, b, c], default: d}}" for i in range(1_200)) + "}"),
    "schemas in schemas": read("inputs: {x: " + "{type: array, items: " * 900 + "{}" + "}" * 900 + "}"),
    "pins": read("includes: {" + ", ".join(f"a{i}: {{version: 1}}" for i in range(2_000)) + "}"),
    "lint: one long line": linted("{{ " * 60_000 + "x"),
    "lint: one long line that reads": linted("---\ninputs: {y: {}}\n---\n" + "{{x}}" * 3_000),
    "lint: inputs": linted("---\ninputs: {" + ", ".join(f"x{i}: {{}}" for i in range(5_000)) + "}\n---\n\u202ea"),
    "lint: answers": linted("---\noutput: {choices: [" + ", ".join(f"ab{i}" for i in range(1_000, 6_000))
                            + ", x, X]}\n---\na"),
    "lint: invisible": linted("\u202e" * 199_000),
}

megabytes = lambda: int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() // 2**20
resource.setrlimit(resource.RLIMIT_AS, ((megabytes() + 100) * 2**20,) * 2)
for name, attack in ATTACKS.items():
    begun = time.process_time()
    try:
        attack()
        end = "no error"
    except ForewordError:
        end = "refused"
    except BaseException as error:
        end = repr(error)[:300]
    seconds = time.process_time() - begun
    print(f"{end}|{seconds:.2f}|{name}", flush=True)
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_every_bomb_is_refused_within_a_second_and_100_mb() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([sys.executable, "-c", BOMBS, folder], capture_output=True, text=True, timeout=120)
    *lines, last = run.stdout.splitlines()
    assert last == "done", run.stderr
    survived = [line for line in lines if not line.startswith("refused|") or float(line.split("|")[1]) >= 1]
    assert not survived, run.stderr


PARTS = st.sampled_from(
    [
        "{{", "}}", "{%", "%}", "{#", "#}", "-", " include ", " 'part' ", "'", '"', " for ", " in ", " if ", " else ",
        " endfor ", " endif ", " elif ", " x ", " examples ", " a ", ".", "[0]", "|join", "|tojson", "|default", "(",
        ")", "user()", "virtual(2)", "raw", "endraw", "\n", "text", "---\n", "name: p\n", "inputs: {x: {}}\n", "*a",
        "\ue000", "{{ x }}", "{% include 'part' %}", "{% for a in x %}", "{% endfor %}", "{% if x %}", "{% endif %}",
        "\0", "\u202e", "examples: {rows: [{a: b}]}\n", "includes: {part: {version: 1}}\n", "1e999", "9" * 50, ", ",
        "~", "%", "not ",
    ]
)  # fmt: skip


@settings(deadline=2_000, max_examples=300)
@given(st.lists(PARTS | st.text(max_size=3), max_size=25).map("".join), st.text(max_size=5) | st.lists(st.text()))
def test_whatever_a_file_holds_it_renders_or_is_refused(text: str, x: object) -> None:
    part = Prompt("part", "{% for a in x %}{{ a }}{% endfor %}")
    findings = lint_text(text, "p.prompt", lambda _: part)[1]
    try:
        prompt = Prompt.from_text(text, "p.prompt", "p", resolve=lambda _: part)
    except ForewordError:
        assert any(finding.severity == "error" for finding in findings)
        return
    assert Prompt.from_text(prompt.to_text(), "p", resolve=lambda _: part).to_text() == prompt.to_text()
    with contextlib.suppress(ForewordError):
        prompt.render(dict.fromkeys(prompt.variables, x))
