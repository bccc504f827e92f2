"""Where prompts live, hard and soft alike: names, versions that never change, and aliases that can be moved."""

from foreword.table.heads import Head
from foreword.table.stored import AliasMove, Deletion, Stored
from foreword.table.table import PromptTable

__all__ = ["AliasMove", "Deletion", "Head", "PromptTable", "Stored"]
