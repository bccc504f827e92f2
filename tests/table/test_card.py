"""The card: what a stranger wrote is shown as it was written, and can do nothing to the page."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from foreword.errors import UsageError
from foreword.prompts import Examples, Input, Output, Partial, Prompt, SoftTokens
from foreword.redact import redact, secret_line
from foreword.table.card import block, card_text, inline, visible
from within import within

PAGE = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = st.text(
    st.sampled_from(list("a1 \n\t\\`*_{}[]()#+-.!|~<>&:@\"'$=^/é\u202e\u200b\u2028\r")) | st.characters(codec="utf-8"),
    max_size=40,
) | st.sampled_from(
    ["<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](http://a/b.png)", "| a | b |\n|---|", "```\n# x",
     "1. x", "- x", "===", "---", "> x", "&lt;", "&#60;", "http://a.b", "<http://a.b>", "www.a.b", "a  \nb", "\\",
     "    x"]
)  # fmt: skip


def structure(text: str) -> list[str]:
    """What the page is made of, texts left out."""
    return [
        kind
        for token in PAGE.parse(text)
        for kind in (token.type, *(c.type for c in token.children or () if c.type not in ("text", "text_special")))
    ]


def shown(text: str) -> str:
    """The words on the page in one line."""
    (token,) = (token for token in PAGE.parse(text) if token.type == "inline")
    return "".join(child.content for child in token.children or ())


@settings(deadline=None, max_examples=300)
@given(HOSTILE)
def test_a_line_shows_what_was_written_and_means_nothing(text: str) -> None:
    written = inline(text)
    plain = visible(" ".join(text.split()))
    if plain:
        assert structure(written) == ["paragraph_open", "inline", "paragraph_close"]
        assert shown(written) == plain
        assert structure(f"- {written}") == structure("- a")
        assert structure(f"| a | b |\n|---|---|\n| {written} | c |") == structure("| a | b |\n|---|---|\n| a | c |")


@settings(deadline=None, max_examples=200)
@given(HOSTILE)
def test_a_block_holds_its_text_whole(text: str) -> None:
    (token,) = PAGE.parse(block(text, "jinja"))
    assert (token.type, token.info, token.content.removesuffix("\n")) == ("fence", "jinja", visible(text))


def a_prompt(text: str) -> Prompt:
    soft = SoftTokens(
        {"embeddings": np.ones((2, 8), np.float32)}, text or "b", text or "f", text or "m", text or "r", 16
    )
    body = "{{ virtual(2) }}" + json.dumps(text).replace("{", "(").replace("\0", "") + "{{ q }}"
    return Prompt("p", body, {"q": Input(description=text)}, Output(choices=(f"a{text}", "b")), soft, text or "d")


def result(text: str) -> dict[str, object]:
    metrics = {text or "m": {"value": 1, "low": 0.5, "high": 1}}
    row = {"name": text, "kind": text, "metrics": metrics, "rows": 3}
    return {"task": text or "t", "backbone": text or "b", "verdict": text or "v", "strategies": [row], "test_rows": 9}


@settings(deadline=None, max_examples=100)
@given(HOSTILE.filter(lambda text: visible(" ".join(text.split())) not in ("", "p")))  # its own row stands in bold
def test_no_text_changes_the_page(text: str) -> None:
    assert structure(card_text(a_prompt(text), None, result(text))) == structure(
        card_text(a_prompt("plain"), None, result("plain"))
    )


def test_what_a_card_says() -> None:
    text = card_text(a_prompt("tiny"), None, result("p"))
    for part in (
        "A soft prompt: 2 virtual tokens, learned on the backbone tiny, and of use on no other.",
        "| numbers stored | 16 |",
        "| **p** | p | p 1.000 (0.500 to 1.000) | 3 |",
        "foreword run p --backbone tiny --input q=…",
        'print(model.generate(prompt, q="…"))',
        "- atiny\n- b",
    ):
        assert part in text
    card = card_text(Prompt("hard", "{{ class }} sk-abcdefghijklmnopqrstuv", description="https://me:hunter2@host"))
    assert 'model.generate(prompt, **{"class": "…"})' in card
    assert "hunter2" not in card
    assert "sk-abc" not in card
    bad: tuple[object, ...] = ({}, {"strategies": 3}, {**result("x"), "task": 1}, {**result("x"), "strategies": [{}]})
    for wrong in bad:
        with pytest.raises(UsageError, match="no result of 'foreword compare'"):
            card_text(Prompt("hard", "x"), None, wrong)  # type: ignore[arg-type]


def test_a_card_shows_what_does_not_stand_in_the_template() -> None:
    mood = Input(enum=("calm", "keen"), default="calm", description="How it sounds.")
    style = Prompt("style", "Be {{ tone }}.{% if mood %}{% endif %}", {"tone": Input(maxLength=9), "mood": mood})
    card = card_text(
        Prompt(
            "p", '{% include "style@prod" %}{% for e in examples %}{{ e.a }}{% endfor %}',
            output=Output(schema={"type": "object", "properties": {"n": {"type": "integer"}}}),
            includes={"style@prod": Partial(style)}, examples=Examples(rows=({"a": "x"},), count=1),
        )
    )  # fmt: skip
    assert f"It includes style\\@prod, the version of digest `{style.digest}`:\n\n```jinja\nBe {{{{ tone }}}}." in card
    assert "| mood | string | default calm, enum \\['calm', 'keen'\\] | How it sounds. |" in card
    assert "foreword run p --input tone=…\n" in card, "what has a default may be left out"
    assert 'model.generate(prompt, tone="…"))' in card
    assert "It has 1 example, chosen fixed, count 1." in card
    assert '## Answer\n\nJSON that fits this schema:\n\n```json\n{\n  "type": "object",' in card
    assert "| tone | string | maxLength 9 |" in card


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("see https://me:pass@host/x and s3://key:secret@b", "see https://•••@host/x and s3://•••@b"),
        ("api_key=abcdef123456&x=1 password: 'hunter22'", "api_key=•••&x=1 password: '•••'"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer •••"),
        ("AKIAABCDEFGHIJKLMNOP hf_abcdefghijklmnopqrstuv", "••• •••"),
        ("user@example.com asks; token=x; a secret: no", "user@example.com asks; token=x; a secret: no"),
        ("AWS_SECRET_ACCESS_KEY=abcdefghij DB_PASSWORD=hunter22", "AWS_SECRET_ACCESS_KEY=••• DB_PASSWORD=•••"),
        ("postgresql://u:p@h/db", "postgresql://•••@h/db"),
    ],
)
def test_keys_and_passwords_are_masked_and_words_are_not(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_a_key_is_found_behind_harmless_addresses_and_in_no_time() -> None:
    assert secret_line("https://me@host\nhttps://me:pw@host") == 2
    assert secret_line("https://me@host and token=abcdefgh") is None
    for text in ("eyJ-" * 50_000, "sk-" * 60_000, "://" * 60_000, "token " * 30_000, "-----BEGIN " * 18_000):
        with within(1):
            redact(text)
            secret_line(text)
