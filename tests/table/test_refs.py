"""How a stored prompt is called."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreword.errors import UsageError
from foreword.table.refs import Ref, check_alias, parse_ref

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?", fullmatch=True)
ALIASES = st.from_regex(r"[a-z]([a-z0-9._-]{0,48}[a-z0-9])?", fullmatch=True).filter(lambda alias: alias != "latest")


@settings(deadline=None)
@given(NAMES, ALIASES, st.integers(1, 10**9 - 1))
def test_each_form_says_what_it_says(name: str, alias: str, version: int) -> None:
    assert parse_ref(name) == parse_ref(f"{name}@latest") == Ref(name)
    assert parse_ref(f"{name}@{alias}") == Ref(name, alias=alias)
    assert parse_ref(f"{name}:{version}") == Ref(name, version=version)
    for both in (f"{name}@{alias}:{version}", f"{name}:{version}@{alias}"):
        with pytest.raises(UsageError, match="an alias and a version"):
            parse_ref(both)


@settings(deadline=None)
@given(st.text())
def test_any_other_text_is_refused_and_never_a_crash(text: str) -> None:
    try:
        ref = parse_ref(text)
    except UsageError:
        return
    mark = f"@{ref.alias}" if ref.alias else f":{ref.version}" if ref.version else ""
    assert text.removesuffix("@latest") == ref.name + mark


@pytest.mark.parametrize(
    "ref", ["", "@prod", ":1", "A", "a@", "a:", "a:0", "a:01", "a:-1", "a:1.5", "a:x", "a@1", "a:٣", "a\n"]
)
def test_almost_right_is_refused(ref: str) -> None:
    with pytest.raises(UsageError):
        parse_ref(ref)


def test_a_version_behind_the_sign_of_an_alias_is_told_its_own() -> None:
    with pytest.raises(UsageError, match="a version takes ':': 'style:2'"):
        parse_ref("style@2")
    with pytest.raises(UsageError) as caught:
        parse_ref("A" * 100_000)
    assert len(str(caught.value)) < 500


def test_latest_cannot_be_taken() -> None:
    with pytest.raises(UsageError, match="always means the newest"):
        check_alias("latest")
