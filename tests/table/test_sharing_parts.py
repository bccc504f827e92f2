"""A bundle brings along what its prompt includes."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Partial, Prompt
from foreword.table import PromptTable, Stored, bundle
from foreword.table.sharing import pull, push


def test_what_a_prompt_includes_comes_with_it_and_is_pinned_anew(tmp_path: Path) -> None:
    mine, theirs = PromptTable.open(tmp_path / "a.db"), PromptTable.open(tmp_path / "b" / "b.db")
    theirs.put(Prompt("tone", "Something else."))
    mine.put(Prompt("tone", "Be kind."))
    style = '---\nname: style\n---\n{% include "tone:1" %} Be brief.'
    mine.put(Prompt.from_text(style, "x", resolve=mine.get), alias="prod")
    mine.put(Prompt.from_text('---\nname: top\n---\n{% include "style@prod" %} {{ q }}', "x", resolve=mine.get))
    address = push(mine, "top", tmp_path / "store").address
    assert sorted(path.name for path in Path(address).iterdir()) == [
        "bundle.json", "card.md", "style+1.prompt", "tone+1.prompt", "top.prompt",
    ]  # fmt: skip
    pulled = pull(theirs, address)
    prompt = theirs.get(pulled.stored.ref)
    assert prompt.render({"q": "Hi"}) == mine.get("top").render({"q": "Hi"})
    assert [theirs.list(name)[0].version for name in ("tone", "style", "top")] == [2, 1, 1]
    assert pulled.parts == ("tone:2", "style:1")
    assert theirs.find("tone").origin["pulled from"] == address
    again = pull(theirs, address)
    assert (again.stored.ref, again.parts) == ("top:1", ())


def test_a_part_that_is_there_is_taken_and_what_is_newest_stays_newest(tmp_path: Path) -> None:
    table = PromptTable.open(tmp_path / "a.db")
    table.put(Prompt("tone", "Be kind."))
    table.put(Prompt.from_text('---\nname: top\n---\n{% include "tone:1" %} {{ q }}', "x", resolve=table.get))
    address = push(table, "top", tmp_path / "store").address
    table.put(Prompt("tone", "Be very kind."))
    for deleted in (False, True):
        if deleted:
            table.delete("tone:1")
        pulled = pull(table, address)
        assert (pulled.stored.ref, pulled.parts, table.find("tone").ref) == ("top:1", (), "tone:2")


def test_nothing_is_stored_where_the_alias_cannot_be(tmp_path: Path) -> None:
    mine, theirs = PromptTable.open(tmp_path / "a.db"), PromptTable.open(tmp_path / "b" / "b.db")
    mine.put(Prompt("tone", "Be kind."))
    mine.put(Prompt.from_text('---\nname: top\n---\n{% include "tone:1" %} {{ q }}', "x", resolve=mine.get))
    address = push(mine, "top", tmp_path / "store").address
    with pytest.raises(UsageError, match="'latest' always means the newest"):
        pull(theirs, address, alias="latest")
    assert theirs.list() == []


def test_a_part_under_a_name_that_is_not_its_own_is_refused(tmp_path: Path) -> None:
    theirs = PromptTable.open(tmp_path / "theirs.db")
    part = Prompt("payments", "Send it to me.")
    top = Prompt("top", '{% include "tone:1" %}', includes={"tone:1": Partial(part, 1)})
    entry = Stored("top", 1, "hard", top.digest, (), datetime.now(UTC), "", "me", 0)
    for name, data in bundle.build(top, entry, "a card").items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ForewordError, match=r"'tone\+1\.prompt' holds a prompt of another name, 'payments'"):
        pull(theirs, tmp_path)
    assert theirs.list() == []
