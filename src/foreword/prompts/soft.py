"""The vectors of a soft prompt and their file. Knows safetensors; knows no templates and no models.

Format: safetensors (huggingface/safetensors), one tensor `embeddings` [P, D] in fp32; the metadata says which
backbone the vectors belong to. Files come from strangers: sizes, shapes, dtypes and values are checked first.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from foreword.errors import ForewordError

MAX_BYTES = 512 * 1024**2
FIELDS = ("backbone", "fingerprint", "method", "run", "trained_parameters")


@dataclass(frozen=True, eq=False)
class SoftTokens:
    """`P` learned vectors, bound to the backbone that they were learned on."""

    embeddings: np.ndarray
    """[P, D] float32, finite; on the scale of the backbone's own input embeddings."""
    backbone: str
    """Name of the backbone, for people."""
    fingerprint: str
    """sha256 over the backbone's shape, tokenizer and embedding matrix: a prompt runs on no other."""
    method: str
    """How they were learned: `prompt-tuning`, `p-tuning` …"""
    run: str
    """Id of the run that made them."""
    trained_parameters: int
    """How many numbers were trained to make them: P · D, or the prompt encoder's."""

    def __post_init__(self) -> None:
        shape, dtype = self.embeddings.shape, self.embeddings.dtype
        if len(shape) != 2 or 0 in shape or dtype != np.float32:
            raise ForewordError(f"'embeddings' must be [P, D] float32, not {list(shape)} {dtype}; tune it again")
        if not np.isfinite(self.embeddings).all():
            raise ForewordError("'embeddings' holds NaN or infinity; nothing can be run with it: tune the prompt again")

    def to_bytes(self) -> bytes:
        """The safetensors file; the same vectors and fields always give the same bytes."""
        data = self.embeddings.astype("<f4").tobytes()
        tensor = {"dtype": "F32", "shape": self.embeddings.shape, "data_offsets": (0, len(data))}
        metadata = {field: str(getattr(self, field)) for field in FIELDS}
        # Written here, because the library puts metadata in a random order and equal vectors need equal digests.
        header = json.dumps({"__metadata__": metadata, "embeddings": tensor}).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + data

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> "SoftTokens":
        """Check and read a safetensors file. Raises ForewordError that names `source` and what is wrong with it."""
        try:
            if len(data) > MAX_BYTES:
                raise ForewordError(f"{len(data):,} bytes are more than {MAX_BYTES:,}")
            metadata = _metadata(data)
            tensors = load(data)
            if set(tensors) != {"embeddings"}:
                raise ForewordError(f"tensors {sorted(tensors)} where only 'embeddings' is expected")
            return cls(tensors["embeddings"], **metadata)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ForewordError(f"{source!r} is not a soft prompt: {error}; fetch or tune it again") from error
        except ForewordError as error:
            raise ForewordError(f"{source!r} is refused: {error}") from error

    @cached_property
    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _metadata(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(len(data) - 8, 1_000_000):
        raise ForewordError("the file is cut short or is no safetensors file")
    header = json.loads(data[8 : 8 + length])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ForewordError("its header holds no metadata")
    missing = [field for field in FIELDS if field not in metadata]
    if missing:
        raise ForewordError(f"the metadata lacks {missing}")
    return {field: metadata[field] for field in FIELDS} | {"trained_parameters": int(metadata["trained_parameters"])}
