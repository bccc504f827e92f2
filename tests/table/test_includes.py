"""A stored prompt renders the same ever after, whatever becomes of the names that it includes."""

from pathlib import Path

import pytest

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Partial, Prompt, Text
from foreword.table import PromptTable
from foreword.table.includes import Partials


@pytest.fixture
def table(tmp_path: Path) -> PromptTable:
    return PromptTable.open(tmp_path / "prompts.db")


def write(folder: Path, body: str) -> Path:
    path = folder / "p.prompt"
    path.write_text(body)
    return path


def test_an_alias_that_moves_leaves_a_stored_prompt_as_it_was(tmp_path: Path, table: PromptTable) -> None:
    table.put(Prompt("style", "Be brief."), alias="prod")
    table.put(Prompt("tail", '{% include "style" %} End.'.replace('"style"', '"style@prod"'), includes={
        "style@prod": Partial(table.get("style"))
    }))  # fmt: skip
    path = write(tmp_path, '{% include "style@prod" %}\n{% include "tail" %}\n{{ text }}')
    first = table.put(Prompt.load(path, resolve=table.get))
    text = table.get("p").to_text()
    assert "style@prod: {version: 1, digest: " in text
    assert table.put(table.get("p")).version == 1  # as it came out, nothing is new

    table.put(Prompt("style", "Be long."), alias="prod")
    assert table.get("p:1").render({"text": "x"}) == (Text("Be brief.\nBe brief. End.\nx"),)
    assert table.get("p:1").digest == first.digest
    second = table.put(Prompt.load(path, resolve=table.get))
    assert second.version == 2
    assert table.get("p").render({"text": "x"}) == (Text("Be long.\nBe brief. End.\nx"),)
    assert PromptTable.open(tmp_path / "prompts.db").get("p:1").to_text() == text


def test_a_prompt_is_stored_with_its_partials_or_not_at_all(tmp_path: Path, table: PromptTable) -> None:
    stranger = Prompt("p", '{% include "style" %}', includes={"style": Partial(Prompt("style", "Elsewhere."))})
    with pytest.raises(ForewordError, match=r"this table has no 'style' with digest .*put it there first"):
        table.put(stranger)
    assert table.list() == []
    table.put(Prompt("style", "Here."))
    with pytest.raises(ForewordError, match="put it there first"):
        table.put(stranger)
    with pytest.raises(ForewordError, match=r"includes 'stile': there is no prompt 'stile'; did you mean 'style'"):
        Prompt.load(write(tmp_path, '{% include "stile" %}'), resolve=table.get)
    for path in ("/etc/passwd", "../style", "style.prompt/..", "p/q"):
        with pytest.raises(UsageError if "/" not in path else ForewordError, match="is no stored prompt"):
            Prompt.load(write(tmp_path, f'{{% include "{path}" %}}'), resolve=table.get)


def test_circles_and_towers_end_in_an_error_that_shows_them() -> None:
    def load(ref: str, partials: Partials) -> Prompt:
        return Prompt(ref, "x", includes={"y": Partial(partials({"a": "b", "b": "a"}.get(ref, ref + "x")))})

    with pytest.raises(ForewordError, match="'a' includes 'b' includes 'a': a prompt cannot include itself"):
        Partials(load)("a")
    with pytest.raises(ForewordError, match="include 5 deep at most"):
        Partials(load)("t")


def test_a_deleted_partial_is_read_with_what_includes_it_and_not_by_itself(tmp_path: Path, table: PromptTable) -> None:
    table.put(Prompt("style", "Be brief."))
    table.put(Prompt.load(write(tmp_path, '{% include "style:1" %}'), resolve=table.get))
    table.put(Prompt("style", "Be long."))
    table.delete("style:1")
    assert table.get("p").render({}) == (Text("Be brief."),)
    for asked in (table, PromptTable.open(tmp_path / "prompts.db")):  # with and without it in memory
        with pytest.raises(UsageError, match="'style:1' is deleted"):
            asked.get("style:1")
