"""What a prompt promises about its inputs, its vectors and its identity."""

import hashlib

import numpy as np
import pytest

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Input, Output, Prompt, SoftTokens, Text, Virtual


def vectors(count: int, value: float = 0.5) -> SoftTokens:
    return SoftTokens(
        {"embeddings": np.full((count, 4), value, np.float32)}, "tiny", "f" * 64, "prompt-tuning", "run-1", 8
    )


def test_a_soft_prompt_renders_its_virtual_tokens_where_the_body_has_them() -> None:
    prompt = Prompt("p", "{{ virtual(2) }}Say {{ text }}{{ virtual(1) }}", soft=vectors(3))
    assert prompt.virtual_tokens == 3
    assert prompt.variables == ("text",)
    assert prompt.render({"text": "hi"}) == (Virtual(0, 2), Text("Say hi"), Virtual(2, 1))


def test_vectors_must_be_as_many_as_the_body_says() -> None:
    with pytest.raises(ForewordError, match="3 virtual tokens in its body and 2 vectors"):
        Prompt("p", "{{ virtual(3) }}", soft=vectors(2))
    assert Prompt("p", "{{ virtual(3) }}").soft is None  # a start for tuning


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "ä", "a/b", "a@b", "a:1", "a\n", "a" * 101])
def test_a_name_that_no_file_or_reference_could_hold_is_refused(name: str) -> None:
    with pytest.raises(ForewordError, match="prompt name"):
        Prompt(name, "x")


def test_a_template_is_checked_when_the_prompt_is_made() -> None:
    with pytest.raises(ForewordError, match="'import' is not part"):
        Prompt("p", "{% import 'os' as os %}")


def test_declared_inputs_are_held_to() -> None:
    inputs = {
        "text": Input(maxLength=3),
        "count": Input(type="integer"),
        "share": Input(type="number"),
        "flag": Input(type="boolean"),
        "docs": Input(type="array", maxLength=2),
    }
    prompt = Prompt("p", "{{ text }}{{ count }}{{ share }}{{ flag }}{{ docs }}", inputs)
    good = {"text": "abc", "count": 1, "share": 0.5, "flag": True, "docs": ["a"]}
    assert prompt.render(good) == (Text("abc10.5True['a']"),)
    for name, bad in [
        ("text", "abcd"), ("text", 1), ("count", True), ("count", 1.5), ("share", "1"), ("flag", 1), ("docs", "ab"),
        ("docs", [1, 2, 3]),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=f"input {name!r}"):
            prompt.render(good | {name: bad})
    with pytest.raises(UsageError, match="needs the input 'docs'"):
        prompt.render({name: value for name, value in good.items() if name != "docs"})
    with pytest.raises(UsageError, match=r"no input 'txt'; did you mean 'text'\? It takes"):
        prompt.render(good | {"txt": "a"})
    with pytest.raises(ForewordError, match=r"variable 'txt' is not declared; did you mean 'text'\?"):
        Prompt("p", "{{ txt }}", inputs)


def test_a_list_is_bounded_even_where_nothing_is_declared_about_its_length() -> None:
    prompt = Prompt("p", "{{ docs|length }}", {"docs": Input(type="array")})
    assert prompt.render({"docs": ["a"] * 1_000}) == (Text("1000"),)
    with pytest.raises(UsageError, match="1,001 long"):
        prompt.render({"docs": ["a"] * 1_001})


def test_the_digest_is_that_of_the_canonical_file_and_the_vectors() -> None:
    hard = Prompt("p", "Hello {{ text }}")
    assert hard.digest == hashlib.sha256(b"---\nname: p\n---\nHello {{ text }}\n\n").hexdigest()
    soft = Prompt("p", "{{ virtual(2) }}", soft=vectors(2))
    file = hashlib.sha256(vectors(2).to_bytes()).hexdigest()
    assert soft.digest == hashlib.sha256(f"---\nname: p\n---\n{{{{ virtual(2) }}}}\n\n{file}".encode()).hexdigest()


def test_the_digest_changes_with_everything_that_matters_and_with_nothing_else() -> None:
    prompt = Prompt("p", "{{ virtual(2) }}{{ text }}", {"text": Input()}, soft=vectors(2))
    changes: list[dict[str, object]] = [
        {"name": "q"},
        {"body": "{{ virtual(2) }} {{ text }}"},
        {"inputs": {"text": Input(maxLength=9)}},
        {"inputs": None},
        {"output": Output(choices=("a", "b"))},
        {"soft": vectors(2, 0.25)},
        {"soft": None},
        {"description": "d"},
        {"labelled_rows": 8},
    ]
    digests = {prompt.replace(**change).digest for change in changes} | {prompt.digest}
    assert len(digests) == len(changes) + 1
    assert prompt.replace(inputs={"text": Input(type="string")}, soft=vectors(2)).digest == prompt.digest


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": ["a"]},
        {"choices": ["a", "a"]},
        {"choices": ["a", ""]},
        {"log_prior": [0.5]},
        {"choices": ["a", "b"], "log_prior": [0.5]},
        {"choices": ["a", "b"], "log_prior": [0.5, float("nan")]},
        {"choices": ["a", "b"], "log_prior": [0.5, float("-inf")]},
        {"schema": {}},
    ],
)
def test_choices_that_cannot_be_told_apart_or_weighed_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Output.model_validate(wrong)
