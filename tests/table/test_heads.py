"""What names and aliases stand for, against what `list` and `get` say."""

from pathlib import Path

from foreword.prompts import Prompt
from foreword.table import PromptTable


def test_heads_are_the_newest_versions_and_those_with_aliases(tmp_path: Path) -> None:
    table = PromptTable.open(tmp_path / "prompts.db")
    assert table.heads() == []
    for i in range(4):
        table.put(Prompt("a", f"{i} {{{{ text }}}}"))
    table.put(Prompt("b", "{{ virtual(3) }}{{ text }}"), alias="prod")
    table.alias("a", "prod", 2)
    table.alias("a", "staging", 2)
    table.alias("a", "canary", 4)
    heads = {head.ref: head for head in table.heads()}
    assert list(heads) == ["a:2", "a:4", "b:1"]
    assert [head.aliases for head in heads.values()] == [("prod", "staging"), ("canary",), ("prod",)]
    assert [head.newest for head in heads.values()] == [False, True, True]
    assert [head.virtual_tokens for head in heads.values()] == [0, 0, 3]
    assert {ref: head.digest for ref, head in heads.items()} == {ref: table.get(ref).digest for ref in heads}
