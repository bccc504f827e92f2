"""Chains: read from a file, checked before anything runs, and run step by step."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import tiny
from foreword.backbone import Sampling
from foreword.errors import ForewordError, UsageError
from foreword.flows import Chain, Program, Usage, trace
from foreword.flows.chain import MAX_STEPS
from foreword.prompts import Input, Output, Prompt, Text
from foreword.table import PromptTable

backbone = cache(tiny.backbone)
TRIAGE = """
name: triage
inputs: [text]
steps:
  - {call: summarise@prod, as: summary, with: {text: "{{ text }}"}}
  - {call: fields, as: fields, with: {text: "{{ summary | upper }}"}}
  - {call: team.prompt, as: team, with: {text: "{{ fields.say }} of {{ text }}", tags: "{{ fields.tags | tojson }}"}}
output: team
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "say": {"type": "string", "maxLength": 5},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["say", "tags"],
}
TEAM = Prompt(
    "team",
    "{{ text }}{% for tag in tags %} #{{ tag }}{% endfor %}\nTeam:",
    {"text": Input(), "tags": Input(type="array")},
    Output(choices=("billing", "technical")),
)


@pytest.fixture
def table(tmp_path: Path) -> PromptTable:
    found = PromptTable.open(tmp_path / "table.db")
    found.put(Prompt("summarise", "Shorten: {{ text }}\nShort:"), alias="prod")
    found.put(Prompt("summarise", "never called {{ text }}"))
    found.put(Prompt("fields", "Read: {{ text }}\nFields:", output=Output(schema=SCHEMA)))
    TEAM.save(tmp_path / "team.prompt")
    return found


def load(table: PromptTable, folder: Path, text: str = TRIAGE) -> Chain:
    (folder / "triage.yaml").write_text(text)
    return Chain.load(folder / "triage.yaml", table)


def test_a_chain_is_what_the_same_calls_by_hand_are(table: PromptTable, tmp_path: Path) -> None:
    model, sampling = backbone("llama"), Sampling(60)
    rows = [{"text": "a quiet film"}, {"text": "{{ user() }} silly"}]
    chain = load(table, tmp_path)
    triage = Program(chain, model, sampling=sampling, returns=Literal["billing", "technical"])
    with trace() as found:
        results = triage.batch(rows)
    summarise, fields, team = (Program(step.prompt, model, sampling=sampling) for step in chain.steps)
    for row, result in zip(rows, results, strict=True):
        summary = summarise(**row).value
        read = fields(text=summary.upper()).value
        chosen = team(text=f"{read['say']} of {row['text']}", tags=read["tags"])
        assert {name: step.value for name, step in result.steps.items()} == {
            "summary": summary, "fields": read, "team": chosen.value,
        }  # fmt: skip
        assert (result.value, result.text) == (chosen.value, chosen.text)
        assert result.probabilities == pytest.approx(chosen.probabilities, abs=1e-5)
        assert result.usage == sum((step.usage for step in result.steps.values()), Usage())
        assert result.seconds == pytest.approx(sum(step.seconds for step in result.steps.values()))
    assert [call.prompt for call in found.calls] == ["summarise"] * 2 + ["fields"] * 2 + ["team"] * 2
    assert triage(text="a quiet film").value == results[0].value
    with pytest.raises(UsageError, match="has no input 'txt'"):
        triage(text="x", txt="y")
    with pytest.raises(UsageError, match="needs the input 'text'"):
        triage()


def test_the_output_may_be_any_step_and_is_typed_at_the_end(table: PromptTable, tmp_path: Path) -> None:
    class Fields(BaseModel):
        say: str
        tags: list[Literal["a", "b"]]

    found = load(table, tmp_path, TRIAGE.replace("output: team", "output: fields"))
    result = Program(found, backbone("llama"), sampling=Sampling(60), returns=Fields)(text="film")
    assert result.value == Fields(**result.steps["fields"].value)
    assert list(result.steps) == ["summary", "fields", "team"]
    with pytest.raises(UsageError, match="'team' answers one of"):
        Program(load(table, tmp_path), backbone("llama"), returns=Fields)


def test_a_row_without_an_answer_stops_there_and_the_others_go_on(table: PromptTable, tmp_path: Path) -> None:
    triage = Program(load(table, tmp_path), backbone("llama"), sampling=Sampling(35, temperature=1.0, seed=2))
    results = triage.batch([{"text": f"film {number}"} for number in range(8)])
    stopped = [result for result in results if result.problem is not None]
    assert 0 < len(stopped) < len(results)
    for result in stopped:
        assert list(result.steps) == ["summary", "fields"]
        with pytest.raises(ForewordError, match="chain 'triage', step 'fields', prompt 'fields': the JSON is not fi"):
            _ = result.value
    assert all(result.value in ("billing", "technical") for result in results if result.problem is None)


STEP = '{call: summarise, as: one, with: {text: "{{ text }}"}}'


def chain(*steps: str, inputs: str = "[text]", output: str = "one", more: str = "") -> str:
    return f"inputs: {inputs}\nsteps: [{', '.join(steps)}]\noutput: {output}\n{more}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            chain('{call: sumarise, as: one, with: {text: "{{ text }}"}}'),
            "no prompt 'sumarise'; did you mean 'summ",
        ),
        (chain('{call: summarise@prd, as: one, with: {text: "x"}}'), "no alias 'prd'; did you mean 'prod'"),
        (chain('{call: summarise, as: one, with: {txt: "x"}}'), "no input 'txt'; did you mean 'text'"),
        (chain('{call: summarise, as: one, with: {text: "{{ txt }}"}}'), "uses 'txt', .* did you mean 'text'"),
        (chain('{call: summarise, as: one, with: {text: "{{ one }}"}}'), "uses 'one', which is not known here"),
        (chain("{call: summarise, as: one}"), "needs the input 'text'; add it to 'with'"),
        (chain(STEP, STEP), "this name is taken"),
        (chain(STEP.replace("as: one", "as: text")), "this name is taken"),
        (chain(STEP.replace("as: one", "as: user"), output="user"), "'user' has a meaning in templates"),
        (TRIAGE.replace("fields.say", "fields.sya"), "'fields.sya', which its schema lacks; did you mean 'say'"),
        (chain(STEP, output="won"), "'output' names a step, not 'won'; did you mean 'one'"),
        (chain(STEP, more="otput: x"), "no key 'otput'; did you mean 'output'"),
        (chain(STEP.replace("call", "cal")), "'steps.0': 'call' is required; did you mean it by 'cal'"),
        (chain(STEP, more="inputs: text"), "'inputs': must be a list of texts, not 'text'"),
        ("name: x\ndata: rows.csv\ntarget: {column: y}", "is a task file, not a chain; .*'foreword compare "),
        (chain(), "'steps': List should have at least 1"),
        (chain(*[STEP] * (MAX_STEPS + 1)), "'steps': List should have at most 20"),
        (chain('{call: summarise, as: one, with: {text: "{{ virtual(2) }}"}}'), "virtual tokens"),
        (chain('{call: summarise, as: one, with: {text: "{{ text.__class__ }}"}}'), "out of reach"),
        (chain('{call: summarise, as: one, with: {text: "{{ cycler() }}"}}'), "cannot call 'cycler'"),
        (chain('{call: ../up.prompt, as: one, with: {text: "x"}}'), "lies outside of the chain's folder"),
        (chain('{call: "a\\0.prompt", as: one, with: {text: "x"}}'), "is no file; name one"),
        (chain('{call: /etc/up.prompt, as: one, with: {text: "x"}}'), "lies outside of the chain's folder"),
        (chain('{call: gone.prompt, as: one, with: {text: "x"}}'), "no prompt file"),
        (chain("{call: triage.yaml, as: one}"), "no prompt 'triage.yaml'"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("name: [", "no YAML"),
        ("- 1", "chain file .*: must be a mapping"),
        ("x" * 60_000, "60,000 characters"),
        (chain(STEP, more='name: "Bad name"'), "'name': String should match"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    table: PromptTable, tmp_path: Path, text: str, message: str
) -> None:
    Prompt("up", "{{ text }}").save(tmp_path.parent / "up.prompt")
    with pytest.raises(ForewordError, match=message):
        load(table, tmp_path, text)


def test_a_link_does_not_lead_out_of_the_folder_either(table: PromptTable, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.prompt"
    Prompt("outside", "{{ text }}").save(outside)
    (tmp_path / "in.prompt").symlink_to(outside)
    with pytest.raises(UsageError, match="lies outside"):
        load(table, tmp_path, chain('{call: in.prompt, as: one, with: {text: "x"}}'))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{{ user() }}{{ text }}", "an expression makes a text"),
        ("{{ text.more }}", "step 'one': prompt 'triage.one.text' cannot be rendered"),
    ],
)
def test_an_expression_that_fails_names_its_place(
    table: PromptTable, tmp_path: Path, expression: str, message: str
) -> None:
    found = load(table, tmp_path, chain(f'{{call: summarise, as: one, with: {{text: "{expression}"}}}}'))
    with pytest.raises(ForewordError, match=message):
        Program(found, backbone("llama"))(text="film")


@pytest.mark.parametrize(
    ("written", "value"), [("[1, 2]", [1, 2]), ("{{ text }}", None), ("{{ text | tojson }}", None)]
)
def test_an_input_of_another_type_is_read_as_json(table: PromptTable, tmp_path: Path, written: str, value: Any) -> None:
    step = f"{{call: team.prompt, as: one, with: {{text: 'x', tags: '{written}'}}}}"
    program = Program(load(table, tmp_path, chain(step)), backbone("llama"))
    if value is None:
        with pytest.raises(ForewordError, match=r"type array.*tojson|must be of type array"):
            program(text="film")
    else:
        with trace() as found:
            program(text="film")
        assert found.calls[0].inputs["tags"] == value


def test_a_file_may_include_what_the_table_has_with_the_inputs_declared_there(
    table: PromptTable, tmp_path: Path
) -> None:
    table.put(Prompt("part", "{{ n + 1 }}", {"n": Input(type="integer")}))
    (tmp_path / "file.prompt").write_text('{% include "part" %} {{ text }}')
    found = load(table, tmp_path, chain('{call: file.prompt, as: one, with: {text: "{{ text }}", n: "6"}}'))
    assert found.steps[0].prompt.render(found.steps[0].inputs({"text": "x"})) == (Text("7 x"),)
