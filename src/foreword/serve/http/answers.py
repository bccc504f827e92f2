"""What all answers to calls have in common. Knows no route."""

import time
from typing import Any

from foreword.serve.http.calls import Call
from foreword.serve.http.running import Running


def head(kind: str, call: Call, model: str) -> dict[str, Any]:
    """What an answer begins with. The fingerprint tells which version a name or an alias stood for."""
    name = f"{kind}-{call.rows[0].id.rpartition('-')[0]}"
    return {"id": name, "created": int(time.time()), "model": model, "system_fingerprint": call.served.key}


def usage(running: Running) -> dict[str, Any]:
    """What a call took."""
    read, written = running.usage
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": running.cached},
    }
