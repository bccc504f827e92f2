"""Moving an alias only as long as nobody else has: of many who decided on the same version, one moves it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.table import PromptTable


@pytest.fixture
def table(tmp_path: Path) -> PromptTable:
    opened = PromptTable.open(tmp_path / "prompts.db")
    for number in range(1, 5):
        opened.put(Prompt("p", f"version {number}"))
    return opened


def test_an_alias_moves_from_where_it_was_seen_and_from_nowhere_else(table: PromptTable) -> None:
    assert table.aliases("p") == {}
    table.move("p", "prod", 1, None)
    with pytest.raises(
        ForewordError, match="'p@prod' has been moved by another in the meantime, from none to version 1"
    ):
        table.move("p", "prod", 2, None)
    table.move("p", "prod", 3, 1)
    with pytest.raises(ForewordError, match="from version 1 to version 3; nothing is changed"):
        table.move("p", "prod", 2, 1)
    table.alias("p", "next", 4)
    assert table.aliases("p") == {"next": 4, "prod": 3}
    assert [table.find(ref).ref for ref in ("p", "p@prod", "p:2")] == ["p:4", "p:3", "p:2"]
    for call in (lambda: table.move("p", "prod", 9, 3), lambda: table.move("p", "latest", 1, None)):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(UsageError, match="there is no prompt 'q'; stored prompts: p"):
        table.aliases("q")
    assert table.aliases("p") == {"next": 4, "prod": 3}


def test_of_many_at_once_one_moves_it(table: PromptTable) -> None:
    def attempt(version: int) -> bool:
        try:
            table.move("p", "prod", version, seen)
        except ForewordError:
            return False
        return True

    seen: int | None = None
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            others = [version for version in range(1, 5) if version != seen]
            won = list(pool.map(attempt, others * 3))
        assert sum(won) == 1
        seen = (others * 3)[won.index(True)]
        assert table.aliases("p") == {"prod": seen}
