"""Budgets: never more tokens than allowed, nothing but the named part is left out, and never in silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreword.errors import ForewordWarning, UsageError
from foreword.prompts import Input, Prompt
from foreword.prompts.budget import JOINT, estimated_spans, fit_budgets


def letters(text: str) -> list[tuple[int, int]]:
    """Tokens of one, two, three, one … characters: of other lengths behind a cut than before it."""
    spans, at = [], 0
    while at < len(text):
        spans.append((at, min(at + len(spans) % 3 + 1, len(text))))
        at = spans[-1][1]
    return spans


@pytest.mark.filterwarnings("ignore::foreword.errors.ForewordWarning")
@given(
    st.text(),
    st.integers(1, 20),
    st.sampled_from(["start", "end", "middle"]),
    st.sampled_from([letters, estimated_spans]),
)
def test_a_cut_text_holds_its_budget(text: str, limit: int, truncate: str, spans: object) -> None:
    prompt = Prompt("p", "{{ x }}{{ y }}", {"x": Input(maxTokens=limit, truncate=truncate), "y": Input()})
    row, cuts = fit_budgets(prompt, {"x": text, "y": text}, spans)
    cut = str(row["x"])
    assert row["y"] == text
    assert len(spans(cut)) <= limit
    if len(spans(text)) <= limit:
        assert (cut, cuts) == (text, ())
        return
    assert [(c.input, c.tokens, c.kept, c.truncate) for c in cuts] == [
        ("x", len(spans(text)), len(spans(cut)), truncate)
    ]
    match truncate:
        case "end":
            assert text.startswith(cut)
            assert cut
        case "start":
            assert text.endswith(cut)
        case "middle":
            assert cut
            head, _, tail = cut.partition(JOINT)
            assert text.startswith(head) or JOINT in text
            assert text.endswith(tail) or JOINT in text


def test_it_is_said_and_without_a_rule_it_is_an_error() -> None:
    prompt = Prompt("p", "{{ x }}", {"x": Input(maxTokens=2, truncate="end")})
    with pytest.warns(ForewordWarning, match="input 'x' of prompt 'p' is longer than its 2 tokens; its end is cut"):
        row, cuts = fit_budgets(prompt, {"x": "a" * 20}, estimated_spans)
    assert row == {"x": "a" * 8}
    assert str(cuts[0]) == "input 'x' has 5 tokens: 2 were kept, its end was cut"
    strict = prompt.replace(inputs={"x": Input(maxTokens=2)})
    with pytest.raises(UsageError, match="input 'x' has 5 tokens, 2 at most; shorten it, or say in the prompt"):
        fit_budgets(strict, {"x": "a" * 20}, estimated_spans)
    assert fit_budgets(strict, {"x": "a" * 8}, estimated_spans) == ({"x": "a" * 8}, ())
