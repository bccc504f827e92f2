"""The server's log: a JSON object a line on stderr. What clients send and what models answer never stands in it."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

NAME = "foreword.serve"
log = logging.getLogger(NAME)


def write(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Write a line with these fields."""
    log.log(level, event, extra={"fields": fields})


def failure(event: str, error: BaseException, **fields: object) -> None:
    """Write of an error that nobody foresaw its kind and where it was raised.

    Its message may quote a request, and is left out.
    """
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    write(event, logging.ERROR, error=type(error).__name__, where=where, **fields)


class JsonLines(logging.Formatter):
    """A formatter that writes records as JSON; those of uvicorn, which knows no contents, with their text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = getattr(record, "fields", None)
        if fields is None:
            kind = record.exc_info[0] if record.exc_info else None
            fields = {"logger": record.name, "error": kind.__name__ if kind is not None else None}
        line = {"time": at, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def to_stderr() -> None:
    """Write our lines, and warnings of uvicorn and asyncio, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in ((NAME, logging.INFO), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
