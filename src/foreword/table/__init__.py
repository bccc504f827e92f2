"""Where prompts live, hard and soft alike: names, versions that never change, and aliases that can be moved."""

from foreword.table.card import card_text
from foreword.table.find import find_prompt, find_table, is_path, meant_version, point, stored_as
from foreword.table.includes import resolve_pinned
from foreword.table.queries import suggestion
from foreword.table.refs import LATEST, Ref, check_alias, parse_ref
from foreword.table.sharing import pull, push
from foreword.table.stored import AliasMove, Current, Deletion, Stored
from foreword.table.table import PromptTable

__all__ = [
    "LATEST",
    "AliasMove",
    "Current",
    "Deletion",
    "PromptTable",
    "Ref",
    "Stored",
    "card_text",
    "check_alias",
    "find_prompt",
    "find_table",
    "is_path",
    "meant_version",
    "parse_ref",
    "point",
    "pull",
    "push",
    "resolve_pinned",
    "stored_as",
    "suggestion",
]
