"""Where prompts live, hard and soft alike: names, versions that never change, and aliases that can be moved."""

from foreword.table.find import find_prompt, find_table, is_path, meant_version, point, stored_as
from foreword.table.refs import check_alias
from foreword.table.stored import AliasMove, Current, Deletion, Stored
from foreword.table.table import PromptTable

__all__ = [
    "AliasMove",
    "Current",
    "Deletion",
    "PromptTable",
    "Stored",
    "check_alias",
    "find_prompt",
    "find_table",
    "is_path",
    "meant_version",
    "point",
    "stored_as",
]
