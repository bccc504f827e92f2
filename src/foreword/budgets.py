"""What work may cost, as people write it: a time, or a number of rows or calls. Knows no work."""

import re

from foreword.errors import UsageError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_budget(text: str, unit: str) -> tuple[float | None, int | None]:
    """Seconds or a count, the other of them None: `90s`, `5m`, `1.5h`, or `4000rows` where `unit` is `rows`.

    Raises UsageError for anything else, and for nothing or more than a billion of it.
    """
    found = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*(s|m|h|{unit})", text.strip())
    if not found or not 0 < float(found[1]) < 1e9:
        raise UsageError(f"budget {text!r}: write it as 90s, 5m, 1.5h or 4000{unit}")
    number = float(found[1])
    return (None, int(number)) if found[2] == unit else (number * UNITS[found[2]], None)
