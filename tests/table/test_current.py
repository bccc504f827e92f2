"""What names and aliases stand for, against what `list` and `get` say."""

from pathlib import Path

from foreword.prompts import Prompt
from foreword.table import PromptTable


def test_current_are_the_newest_versions_and_those_with_aliases(tmp_path: Path) -> None:
    table = PromptTable.open(tmp_path / "prompts.db")
    assert table.current() == []
    for i in range(4):
        table.put(Prompt("a", f"{i} {{{{ text }}}}"))
    table.put(Prompt("b", "{{ virtual(3) }}{{ text }}"), alias="prod")
    table.alias("a", "prod", 2)
    table.alias("a", "staging", 2)
    table.alias("a", "canary", 4)
    current = {one.ref: one for one in table.current()}
    assert list(current) == ["a:2", "a:4", "b:1"]
    assert [one.aliases for one in current.values()] == [("prod", "staging"), ("canary",), ("prod",)]
    assert [one.newest for one in current.values()] == [False, True, True]
    assert [one.virtual_tokens for one in current.values()] == [0, 0, 3]
    assert {ref: one.digest for ref, one in current.items()} == {ref: table.get(ref).digest for ref in current}
