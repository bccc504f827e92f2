"""Text comes in whole characters, up to the first stop string, and the parts are the whole."""

from hypothesis import given
from hypothesis import strategies as st

import tiny
from foreword.serve.engines.text import AnswerText

TEXTS = st.text("aé漢😀 </s\n", max_size=60)


@given(TEXTS, st.lists(st.text("aé漢😀 <", min_size=1, max_size=4), max_size=3))
def test_the_parts_are_the_text_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    writer, parts = AnswerText(tokenizer, stops), list[str]()
    for token in ids:
        parts.append(writer.push(token))
        if writer.stopped:
            break
    parts.append(writer.end())
    said = "".join(parts)
    assert "\ufffd" not in said
    assert not any(stop in said for stop in stops)
    assert text.startswith(said)
    if not any(stop in text for stop in stops):
        assert said == text
    else:
        rest = text[len(said) :]
        assert any(rest.startswith(stop) for stop in stops)


@given(st.lists(st.integers(0, 255), max_size=80))
def test_any_bytes_come_out_as_the_tokenizer_writes_them(values: list[int]) -> None:
    tokenizer = tiny.tokenizer()
    ids = [tokenizer.convert_tokens_to_ids(character) for character in _spelled(values)]
    writer = AnswerText(tokenizer, ())
    assert "".join([*(writer.push(i) for i in ids), writer.end()]) == tokenizer.decode(ids)


def _spelled(values: list[int]) -> str:
    """Bytes as byte-level BPE writes them (GPT-2): printable ones as they are, others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [value for value in range(256) if value not in plain]
    return "".join(chr(value) if value in plain else chr(256 + other.index(value)) for value in values)
