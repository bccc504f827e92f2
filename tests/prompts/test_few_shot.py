"""Demonstrations: whatever stands in an example stands in the prompt, and nothing of it is run."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foreword.errors import UsageError
from foreword.prompts import Prompt, SoftTokens, Text, Turn, Virtual, few_shot

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
HOSTILE = TEXT | st.text("{}%#-+ \r\n\"'\\()xuser\ue000\ue001", max_size=12)
PLAIN = Prompt("sentiment", "Classify.\n\nReview: {{ text }}\nSentiment:")
CHAT = Prompt("sentiment", "{{ system() }}Classify.{{- user() }}{{ text }}")


@settings(deadline=None)
@given(st.lists(st.tuples(HOSTILE, HOSTILE), max_size=3), HOSTILE)
@example([("{", "{"), ("{{ user() }}{% raw %}{#", "a\rb\r\nc"), ("{{{{%%{#", '{{ "{" }}')], "{{ x }}")
def test_hostile_examples_are_written_out_to_the_letter(examples: list[tuple[str, str]], row: str) -> None:
    shots = [({"text": text}, answer) for text, answer in examples]
    written = "".join(f"Review: {text}\nSentiment: {answer}\n\n" for text, answer in examples)
    prompt = few_shot(PLAIN, shots)
    assert prompt.variables == ("text",)
    assert prompt.render({"text": row}) == (Text(f"Classify.\n\n{written}Review: {row}\nSentiment:"),)
    stored = Prompt.from_text(prompt.to_text(), "p.prompt")
    assert stored.render({"text": row}) == prompt.render({"text": row})


@settings(deadline=None)
@given(st.lists(st.tuples(HOSTILE, HOSTILE), max_size=3), HOSTILE)
@example([("{", "{"), ("", "{{ assistant() }}")], "")
def test_in_a_chat_every_example_is_two_turns(examples: list[tuple[str, str]], row: str) -> None:
    prompt = few_shot(CHAT, [({"text": text}, answer) for text, answer in examples])
    expected: list[object] = [Turn("system"), Text("Classify.")]
    for text, answer in [*examples, (row, None)]:
        expected += [Turn("user"), *([Text(text)] if text else [])]
        expected += [Turn("assistant"), Text(f"{answer}\n")] if answer is not None else []
    assert prompt.render({"text": row}) == tuple(expected)


def test_a_template_that_opens_the_answers_turn_itself_gets_no_second_one() -> None:
    prompt = few_shot(Prompt("p", "{{ user() }}{{ text }}{{ assistant() }}"), [({"text": "good"}, "yes")])
    turns = [piece.role for piece in prompt.render({"text": "bad"}) if isinstance(piece, Turn)]
    assert turns == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("body", ["{{ virtual(2) }}Classify.\n\n{{ text }}", "Classify.\n\n{{ virtual(2) }}{{ text }}"])
def test_virtual_tokens_stand_once_however_many_examples_there_are(body: str) -> None:
    soft = SoftTokens({"embeddings": np.ones((2, 4), np.float32)}, "tiny", "f", "m", "r", 8)
    prompt = few_shot(Prompt("p", body, soft=soft), [({"text": "a"}, "b"), ({"text": "c"}, "d")])
    found = [piece for piece in prompt.render({"text": "e"}) if isinstance(piece, Virtual)]
    assert found == [Virtual(0, 2)]
    assert prompt.soft is soft


def test_a_long_name_still_makes_a_name() -> None:
    for length in range(80, 101):
        assert few_shot(Prompt("a." * (length // 2 - 1) + "ab", "{{ text }}"), [({"text": "a"}, "b")]).name.endswith(
            "-1-shot"
        )


def test_an_example_that_does_not_fit_the_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'text'"):
        few_shot(PLAIN, [({"txt": "a"}, "b")])
