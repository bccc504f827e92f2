"""The journal of a search: keeps every measurement as a line of JSON, so that an interrupted search can be resumed.

A search that starts again with the same seed asks for the same values in the same order, finds them here and soon is
where it was. Nothing in the file is ever executed. Knows keys and values; knows no prompts.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreword.errors import ForewordError, UsageError

FILE = "journal.jsonl"


class Journal:
    """Values by key, kept in a file in `folder`, or in memory if that is None. `about` is what the values depend on.

    Raises UsageError if the journal in the folder is about another search, ForewordError if the file is no journal.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, str]) -> None:
        self._known: dict[str, Any] = {}
        self._path = folder / FILE if folder is not None else None
        if self._path is None:
            return
        lines = self._read_and_repair() if self._path.exists() else []
        if not lines:
            self._append([{"about": dict(about)}])
            return
        recorded = lines[0].get("about")
        if not isinstance(recorded, dict):
            raise ForewordError(f"{str(self._path)!r} is no journal of a search; choose another folder")
        if other := [key for key in about if recorded.get(key) != about[key]]:
            raise UsageError(
                f"{str(self._path)!r} is of another search: its {', '.join(other)} differ{'s' * (len(other) == 1)}; "
                "choose another folder"
            )
        for line in lines[1:]:
            if not isinstance(line.get("key"), str) or "value" not in line:
                raise ForewordError(f"{str(self._path)!r} holds a line that no search has written: {line!r:.80}")
            self._known[line["key"]] = line["value"]

    def get(self, key: str) -> Any | None:
        """Return the value of `key`; None if there is none."""
        return self._known.get(key)

    def put(self, values: Mapping[str, Any]) -> None:
        """Add values, and append them to the file. Raises ForewordError if it cannot be written."""
        self._known |= values
        if self._path is not None:
            self._append([{"key": key, "value": value} for key, value in values.items()])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        assert self._path is not None
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise ForewordError(f"cannot write {str(self._path)!r}: {error.strerror}; free some space") from error

    def _read_and_repair(self) -> list[dict[str, Any]]:
        assert self._path is not None
        try:
            data = self._path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]  # a killed process leaves a part of a line
            if len(whole) < len(data):
                os.truncate(self._path, len(whole))
            lines = [json.loads(line) for line in whole.splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise ForewordError(
                f"cannot read the journal {str(self._path)!r}: {error}; choose another folder"
            ) from error
        if not all(isinstance(line, dict) for line in lines):
            raise ForewordError(f"{str(self._path)!r} is no journal of a search; choose another folder")
        return lines
