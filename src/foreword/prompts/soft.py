"""The learned part of a soft prompt and its file. Knows safetensors; knows no templates and no models.

Format: safetensors (huggingface/safetensors), fp32: `embeddings` [P, D]; for prefix tuning `keys` and `values`
[L, H, P, head_dim] instead; for decomposed prompt tuning `offsets` [S, D] beside the embeddings. The metadata says
which backbone they belong to. Files come from strangers: sizes, shapes, dtypes and values are checked first.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from foreword.errors import ForewordError

MAX_VECTOR_BYTES = 512 * 1024**2
FIELDS = ("backbone", "fingerprint", "method", "run", "trained_parameters")


SHAPES = {"embeddings": 2, "keys": 4, "values": 4, "offsets": 2}
KINDS = ({"embeddings"}, {"keys", "values"}, {"embeddings", "offsets"})


@dataclass(frozen=True, eq=False)
class SoftTokens:
    """`P` learned virtual tokens, bound to the backbone that they were learned on."""

    tensors: Mapping[str, np.ndarray]
    """float32, finite: `embeddings` [P, D], on the scale of the backbone's own; or `keys` and `values`
    [L, H, P, head_dim]; `offsets` [S, D] may stand beside embeddings."""
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
        if set(self.tensors) not in KINDS:
            raise ForewordError(
                f"tensors {sorted(self.tensors)} where 'embeddings', or 'keys' and 'values', are expected"
            )
        for name, tensor in self.tensors.items():
            if tensor.ndim != SHAPES[name] or 0 in tensor.shape or tensor.dtype != np.float32:
                shape = "[P, D]" if name == "embeddings" else "[S, D]" if name == "offsets" else "[L, H, P, head_dim]"
                raise ForewordError(
                    f"{name!r} must be {shape} float32, not {list(tensor.shape)} {tensor.dtype}; tune it again"
                )
            if not np.isfinite(tensor).all():
                raise ForewordError(
                    f"{name!r} holds NaN or infinity; nothing can be run with it: tune the prompt again"
                )
        if "keys" in self.tensors and self.tensors["keys"].shape != self.tensors["values"].shape:
            raise ForewordError("'keys' and 'values' must have the same shape; tune the prompt again")
        if "offsets" in self.tensors and self.tensors["offsets"].shape[1] != self.tensors["embeddings"].shape[1]:
            raise ForewordError("'offsets' must be as wide as 'embeddings'; tune the prompt again")

    def __len__(self) -> int:
        """P"""
        return self.tensors["keys"].shape[2] if "keys" in self.tensors else len(self.tensors["embeddings"])

    @property
    def embeddings(self) -> np.ndarray:
        """[P, D] float32. Raises ForewordError for a prefix, which has keys and values instead."""
        if "embeddings" not in self.tensors:
            raise ForewordError("this soft prompt is a prefix of keys and values; it has no embeddings")
        return self.tensors["embeddings"]

    def fits(self, dimension: int, cache: tuple[int, int, int]) -> bool:
        """Whether a backbone of this D, and of these L, H and head_dim, can take them."""
        if "keys" not in self.tensors:
            return bool(self.embeddings.shape[1] == dimension)
        layers, heads, _, size = self.tensors["keys"].shape
        return (layers, heads, size) == cache

    def to_bytes(self) -> bytes:
        """The safetensors file; the same vectors and fields always give the same bytes."""
        tensors, data = {}, b""
        for name in sorted(self.tensors):
            array = self.tensors[name].astype("<f4")
            tensors[name] = {
                "dtype": "F32", "shape": array.shape, "data_offsets": (len(data), len(data) + array.nbytes),
            }  # fmt: skip
            data += array.tobytes()
        metadata = {field: str(getattr(self, field)) for field in FIELDS}
        # Written here, because the library puts metadata in a random order and equal vectors need equal digests.
        header = json.dumps({"__metadata__": metadata, **tensors}).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + data

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> "SoftTokens":
        """Check and read a safetensors file. Raises ForewordError that names `source` and what is wrong with it."""
        try:
            if len(data) > MAX_VECTOR_BYTES:
                raise ForewordError(f"{len(data):,} bytes are more than {MAX_VECTOR_BYTES:,}")
            metadata = _metadata(data)
            return cls(load(data), **metadata)
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
