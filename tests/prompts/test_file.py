"""The `.prompt` file: what is written is read again, and nothing else gets in."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from foreword.errors import ForewordError
from foreword.prompts import Input, Output, Prompt, SoftTokens
from within import within

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
BODY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0{"))
SPEC = st.builds(
    Input,
    type=st.sampled_from(["string", "integer", "number", "boolean", "array"]),
    maxLength=st.none() | st.integers(1, 10**6),
    description=UNICODE,
)


@st.composite
def outputs(draw: st.DrawFn) -> Output:
    choices = draw(st.none() | st.lists(UNICODE.filter(bool), min_size=2, max_size=4, unique=True))
    if choices is None or draw(st.booleans()):
        return Output(choices=choices)
    prior = draw(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=len(choices), max_size=len(choices))
    )
    return Output(choices=tuple(choices), log_prior=tuple(prior))


PROMPTS = st.builds(
    Prompt,
    name=st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?", fullmatch=True),
    body=st.builds(lambda a, b: f"{a}{{{{ virtual(2) }}}}{b}{{{{ text }}}}", BODY, BODY) | BODY,
    inputs=st.none() | st.dictionaries(UNICODE, SPEC, max_size=3).map(lambda inputs: {"text": Input(), **inputs}),
    output=outputs(),
    description=UNICODE,
    labelled_rows=st.integers(0, 10**9),
)


@settings(deadline=None)
@given(PROMPTS)
def test_a_prompt_survives_being_written_and_read(prompt: Prompt) -> None:
    text = prompt.to_text()
    again = Prompt.from_text(text, "p.prompt")
    assert (again.name, again.description, again.output) == (prompt.name, prompt.description, prompt.output)
    assert (again.inputs, again.labelled_rows) == (prompt.inputs, prompt.labelled_rows)
    assert again.body == prompt.body.replace("\r\n", "\n").replace("\r", "\n")  # as Jinja reads it
    assert again.digest == prompt.digest
    assert again.to_text() == text


def test_a_soft_prompt_survives_on_disk_and_turns_hard_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "p.prompt"
    vectors = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    soft = SoftTokens({"embeddings": vectors}, "tiny", "f", "prompt-tuning", "r", 16)
    prompt = Prompt("p", "line\r\n\r{{ virtual(2) }}\u2028\n", soft=soft)
    prompt.save(path)
    again = Prompt.load(path)
    assert again.digest == prompt.digest
    assert again.soft is not None
    assert np.array_equal(again.soft.embeddings, soft.embeddings)
    Prompt("p", "hard").save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["p.prompt"]
    assert Prompt.load(path) == Prompt("p", "hard")


@pytest.mark.parametrize("body", ["hard", "{{ virtual(2) }}"])
def test_weights_of_a_model_beside_the_file_are_not_touched(tmp_path: Path, body: str) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"layer": np.ones((2, 2), np.float32)}, weights)
    before = weights.read_bytes()
    soft = (
        SoftTokens({"embeddings": np.ones((2, 8), np.float32)}, "tiny", "f", "m", "r", 8) if "virtual" in body else None
    )
    with pytest.raises(ForewordError, match=r"model\.safetensors.*choose another name"):
        Prompt("model", body, soft=soft).save(tmp_path / "model.prompt")
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("Just text", "Just text"),
        ("\ufeff---\r\nname: q\r\n---\r\nTwo\r\nlines\r\n", "Two\nlines"),
        ("---\n---\nx\n\n", "x\n"),
        ("---\n# only a comment\n---\n---\n", "---"),
    ],
)
def test_files_as_people_write_them(text: str, body: str) -> None:
    assert Prompt.from_text(text, "p.prompt", name="q") == Prompt("q", body)


@pytest.mark.parametrize(
    ("front", "why"),
    [
        ("name: [a", "no YAML"),
        ("- a", "must be a mapping of keys to values$"),
        ("name: 1", r"'name': .*in quotes \("),
        ("nmae: p", "^'dir/p.prompt': no key 'nmae'; did you mean 'name'"),
        ("input: {text: {}}", "no key 'input'; did you mean 'inputs'"),
        ("inputs: {text: {maxlength: 3}}", r"'inputs\.text': no key 'maxlength'; did you mean 'maxLength'"),
        ("output: {choice: [a, b]}", "'output': no key 'choice'; did you mean 'choices'"),
        ("output: {choices: repair}", "'output.choices': must be a list of texts, not 'repair'$"),
        ("output: {choices: [yes, no]}", r"'output.choices.0': .* reads this as True; put it in quotes \(\"yes\"\)"),
        ("output: {choices: [1, 2]}", r"reads this as 1; put it in quotes \(\"1\"\)"),
        (
            "output: {schema: {type: object}}",
            "'output.schema': schema: an object needs 'properties', [^{]*$",
        ),
        (
            "name: p\ndescription: a: b",
            "^'dir/p.prompt': this is no YAML: line 3: a ':' .*put the text in quotes",
        ),
        ("inputs: {text: {maxLength: 0}}", r"'inputs\.text\.maxLength'"),
        ("inputs: {other: {}}", "'text' is not declared"),
        ("output: {choices: [a, a]}", "two different"),
        ("labelled_rows: -1", "'labelled_rows'"),
        ("name: No Name", "prompt name 'No Name'"),
        ("name: ../p", "prompt name"),
        ("a: &a [1]\nb: *a", "aliases"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]", "aliases"),
        ("name: !!python/object/apply:os.system [ls]", "no YAML"),
        ('name: "\\UFFFFFFFF"', "no YAML"),
        ('name: "\\UFFFFFFFF *"', "no YAML"),
        ('name: !!int ""', "no YAML"),
        ("name: !!bool x", "no YAML"),
        ("name: !!timestamp x", "no YAML"),
        ("name: " + "9" * 5_000, "no YAML"),
        ("inputs: {text: {default: 0x" + "f" * 9_000 + "}}", "no YAML: line 2: a number of too many digits"),
        ("output: {schema: {enum: [" + "1:" * 5_000 + "1]}}", "no YAML: line 2: a number of too many digits"),
        ("inputs: {text: {type: array, default: [2024-01-01]}}", "none of JSON's"),
        ("inputs: {text: {type: number, default: .nan}}", "none of JSON's"),
        ("inputs: {text: {type: object, default: {1: a}}}", "none of JSON's"),
        ("inputs: {text: {type: array, enum: [[!!binary aGk=], [a]]}}", "none of JSON's"),
        ("inputs: {text: {type: array, default: " + "[" * 900 + "]" * 900 + "}}", "nested too deep"),
        ("name: 2024-99-99", "no YAML"),
        ("a: {" * 5_000, "no YAML"),
        ("a: " + "b" * 60_000, "50,000 at most"),
        ("name: \0", "no YAML"),
    ],
)
def test_front_matter_that_is_wrong_is_refused_with_its_place(front: str, why: str) -> None:
    with within(1), pytest.raises(ForewordError, match=why) as caught:
        Prompt.from_text(f"---\n{front}\n---\n{{{{ text }}}}", "dir/p.prompt", name="p")
    assert "p.prompt" in str(caught.value) or "prompt" in why or "declared" in why


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ForewordError, match=r"no prompt file .*gone\.prompt"):
        Prompt.load(tmp_path / "gone.prompt")
    with pytest.raises(ForewordError, match="cannot read"):
        Prompt.load(tmp_path)
    for name, content, why in (
        ("latin.prompt", b"caf\xe9", "is no text in UTF-8"),
        ("rows.csv", b"text,label\na,b\n", r"is no prompt file; a prompt ends in \.prompt"),
        ("empty.prompt", b"", "is empty"),
        ("head.md", b"---\nname: a\n---\n\n", "is empty; write the prompt below its front matter"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ForewordError, match=f"{name}' {why}"):
            Prompt.load(tmp_path / name)
    (tmp_path / "notes.md").write_text("---\nname: a\n---\nhello")
    assert Prompt.load(tmp_path / "notes.md") == Prompt("a", "hello")
    with pytest.raises(ForewordError, match="does not end"):
        Prompt.from_text("---\nname: p\n", "p.prompt")
    with pytest.raises(ForewordError, match="has no 'name'"):
        Prompt.from_text("x", "p.prompt")
    with pytest.raises(ForewordError, match="400,000 at most"):
        Prompt.from_text("x" * 400_001, "p.prompt")
