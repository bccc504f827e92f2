"""Templates taken apart and put together: whatever is changed, what must stay stays."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from follower import Follower
from foreword.optimization.candidate import DEMONSTRATIONS, INSTRUCTION, RefusedError, SearchSpace, demonstrations
from foreword.optimization.edits import MAX_DEMONSTRATIONS, reshow, reword
from foreword.optimization.frame import Frame, frame
from foreword.prompts import Prompt
from foreword.prompts.inputs import Input
from foreword.tasks import Row, Task
from tiny import backbone

ROWS = tuple(Row(f"t:{i}", {"text": f"row {i}", "year": str(i)}, ("bad", "good")[i % 2]) for i in range(12))
TASK = Task("toy", ("text", "year"), ("bad", "good"), "accuracy", 7, ROWS, ROWS, (), ())
BODIES = (
    "{{ text }}",
    "Decide.\n\nMovie review: {{ text }} ({{ year }})\nIt is",
    "{{ system() }}You judge.{{ user() }}Now:\nReview: {{ text }}\nGood or bad?{{ assistant() }}It is",
    "{% if year %}Of {{ year }}: {% endif %}{{ text }} =>",
    "{# a note #}Is it good?\n{% for word in [text, year] %}{{ word }}\n{% endfor %}\nAnswer:",
)


@given(
    st.lists(st.sampled_from(["{{ text }}", "{{ user() }}", "{% if x %}", "{% endif %}", "{# c #}", "a", "\n", "{ }"]))
)
def test_the_parts_are_the_body(pieces: list[str]) -> None:
    body = "".join(pieces)
    parts = frame(body)
    assert (parts is None) == ("text" not in body and "if" not in body)
    if parts is not None:
        assert parts.body == body
        assert not any("{{" in words or "{%" in words for words in (parts.intro, parts.label, parts.cue))


def test_a_frame_knows_which_words_are_which() -> None:
    assert frame(BODIES[1]) == Frame("", "Decide.\n\n", "Movie review: ", "{{ text }} ({{ year }}", ")\nIt is", "")
    chat = frame(BODIES[2])
    assert chat is not None
    assert (chat.intro, chat.noun, chat.after) == ("Now:\n", "review", "{{ assistant() }}It is")


@given(st.sampled_from(BODIES), st.integers(0, 10_000))
def test_every_edit_makes_a_prompt_of_the_same_variables_and_roles(body: str, seed: int) -> None:
    space = SearchSpace(Follower(), Prompt("p", body).answering(TASK.choices), ROWS, ROWS)
    parts, rng, shown = frame(body), random.Random(seed), "[]"
    for _ in range(4):
        assert parts is not None
        parts = reword(parts, TASK, rng)
        ids = reshow(demonstrations({DEMONSTRATIONS: shown}), ROWS, ROWS[:3], rng)
        assert len(set(ids)) == len(ids) <= MAX_DEMONSTRATIONS
        shown = json.dumps(ids)
        assert frame(parts.body) is not None
    prompt = space.prompt({INSTRUCTION: parts.body, DEMONSTRATIONS: shown})
    assert set(prompt.variables) == set(space.start.variables)


def test_rows_are_added_of_the_target_that_is_shown_least() -> None:
    for seed in range(20):
        ids = reshow(["t:0", "t:2"], ROWS, [], random.Random(seed))
        if len(ids) == 4:
            assert {ROWS[int(name[2:])].target for name in ids[2:]} == {"good"}


def test_a_merge_too_long_for_the_model_is_refused_not_measured() -> None:
    space = SearchSpace(Follower(), Prompt("p", "{{ text }} {{ year }}").answering(TASK.choices), ROWS, ROWS)
    with pytest.raises(RefusedError, match="too long for this model"):
        space.prompt({INSTRUCTION: "word " * 700 + "{{ text }} {{ year }}", DEMONSTRATIONS: "[]"})


def test_a_text_of_a_row_is_read_as_the_type_that_the_prompt_declares() -> None:
    inputs = {"text": Input(), "year": Input(type="integer")}
    start = Prompt("p", "{{ text }} {{ year + 1 }}", inputs=inputs).answering(TASK.choices)
    space = SearchSpace(backbone(), start, ROWS, ROWS)
    assert space.prompt(space.seed).body == start.body
