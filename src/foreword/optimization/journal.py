"""What has been measured, a line of JSON each, so that a search that was ended goes on without measuring it again.

Knows keys and values; a search that begins anew with the same seed asks the same things in the same order, finds their
answers here, and is at once where it was. Nothing in the file is ever executed.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreword.errors import ForewordError, UsageError

FILE = "journal.jsonl"


class Journal:
    """In memory alone where there is no `folder`. `about` is what the values depend on.

    Raises UsageError where the folder's journal is about something else, ForewordError where it is none.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, str]) -> None:
        self._known: dict[str, Any] = {}
        self._path = folder / FILE if folder is not None else None
        if self._path is None:
            return
        lines = self._read() if self._path.exists() else []
        if not lines:
            self._append([{"about": dict(about)}])
            return
        kept = lines[0].get("about")
        if not isinstance(kept, dict):
            raise ForewordError(f"{str(self._path)!r} is no journal of a search; choose another folder")
        if other := [key for key in about if kept.get(key) != about[key]]:
            raise UsageError(
                f"{str(self._path)!r} is of another search: its {', '.join(other)} differ{'s' * (len(other) == 1)}; "
                "choose another folder"
            )
        for line in lines[1:]:
            if not isinstance(line.get("key"), str) or "value" not in line:
                raise ForewordError(f"{str(self._path)!r} holds a line that no search has written: {line!r:.80}")
            self._known[line["key"]] = line["value"]

    def get(self, key: str) -> Any | None:
        return self._known.get(key)

    def put(self, values: Mapping[str, Any]) -> None:
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

    def _read(self) -> list[dict[str, Any]]:
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
