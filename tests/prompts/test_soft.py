"""The vectors' file, against the safetensors library and against strangers."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open
from safetensors.numpy import save

from foreword.errors import ForewordError
from foreword.prompts import SoftTokens
from foreword.prompts.soft import FIELDS

META = {"backbone": "tiny", "fingerprint": "f" * 64, "method": "prompt-tuning", "run": "r1", "trained_parameters": "6"}
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=FINITE)


def small() -> SoftTokens:
    return SoftTokens(
        {"embeddings": np.arange(6, dtype=np.float32).reshape(2, 3)}, "tiny", "f" * 64, "prompt-tuning", "r1", 6
    )


def header(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


@settings(deadline=None)
@given(MATRICES, UNICODE, UNICODE, st.integers(0))
def test_vectors_survive_bit_by_bit(embeddings: np.ndarray, backbone: str, method: str, trained: int) -> None:
    soft = SoftTokens({"embeddings": embeddings}, backbone, "f", method, "r", trained)
    again = SoftTokens.from_bytes(soft.to_bytes(), "file")
    assert again.embeddings.tobytes() == embeddings.tobytes()
    assert again.embeddings.shape == embeddings.shape
    assert [getattr(again, field) for field in FIELDS] == [backbone, "f", method, "r", trained]
    assert again.digest == soft.digest


CACHES = arrays(np.float32, array_shapes(min_dims=4, max_dims=4, max_side=3), elements=FINITE)


@settings(deadline=None)
@given(CACHES)
def test_keys_and_values_survive_bit_by_bit(keys: np.ndarray) -> None:
    soft = SoftTokens({"values": -keys, "keys": keys}, "tiny", "f", "prefix-tuning", "r", keys.size * 2)
    again = SoftTokens.from_bytes(soft.to_bytes(), "file")
    assert {name: tensor.tobytes() for name, tensor in again.tensors.items()} == {
        "keys": keys.tobytes(), "values": (-keys).tobytes(),
    }  # fmt: skip
    assert len(again) == keys.shape[2]
    assert again.digest == soft.digest
    with pytest.raises(ForewordError, match="prefix of keys and values"):
        _ = again.embeddings


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "soft.safetensors"
    path.write_bytes(small().to_bytes())
    with safe_open(path, "numpy") as tensors:
        assert tensors.metadata() == META
        assert np.array_equal(tensors.get_tensor("embeddings"), small().embeddings)


def test_what_the_safetensors_library_writes_is_read() -> None:
    soft = SoftTokens.from_bytes(save({"embeddings": small().embeddings}, META), "file")
    assert soft.digest == small().digest


def test_equal_vectors_have_equal_bytes_however_they_lie_in_memory() -> None:
    embeddings = small().embeddings
    layouts = [embeddings, np.asfortranarray(embeddings), np.repeat(embeddings, 2, axis=0)[::2]]
    soft = [replace(small(), tensors={"embeddings": layout}) for layout in layouts for _ in range(10)]
    assert {tokens.to_bytes() for tokens in soft} == {small().to_bytes()}
    assert small().digest == hashlib.sha256(small().to_bytes()).hexdigest()


def test_a_file_cut_at_any_length_is_refused_by_name() -> None:
    data = small().to_bytes()
    for length in range(len(data)):
        with pytest.raises(ForewordError, match=r"'dir/cut\.safetensors'"):
            SoftTokens.from_bytes(data[:length], "dir/cut.safetensors")


def test_a_file_with_any_byte_changed_is_refused_or_read_but_never_a_crash() -> None:
    data = small().to_bytes()
    for place in range(len(data)):
        for value in (0, 0x22, 0x39, 0x7F, 0xFF, data[place] ^ 1):
            with suppress(ForewordError):
                SoftTokens.from_bytes(data[:place] + bytes([value]) + data[place + 1 :], "file")


ONES = np.ones((2, 3), np.float32)


def tensor(metadata: dict[str, object], **changes: object) -> bytes:
    """A file of four bytes of data whose header says something else."""
    said = {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]} | changes
    return header(json.dumps({"__metadata__": metadata, "embeddings": said}).encode(), b"abcd")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (save({"embeddings": ONES.astype(np.float16)}, META), "float16"),
        (save({"embeddings": ONES.astype(np.float64)}, META), "float64"),
        (save({"embeddings": ONES.astype(np.int32)}, META), "int32"),
        (save({"embeddings": ONES[0]}, META), r"\[3\] float32"),
        (save({"embeddings": ONES[None]}, META), r"\[1, 2, 3\] float32"),
        (save({"embeddings": ONES[:0]}, META), r"\[0, 3\] float32"),
        (save({"prompt_embeddings": ONES}, META), "where 'embeddings'"),
        (save({"embeddings": ONES, "more": ONES}, META), "where 'embeddings'"),
        (save({}, META), "where 'embeddings'"),
        (save({"keys": ONES[None, None]}, META), "where 'embeddings'"),
        (save({"keys": ONES[None, None], "values": ONES[None, None, :1]}, META), "same shape"),
        (save({"keys": ONES, "values": ONES}, META), r"\[L, H, P, head_dim\] float32, not \[2, 3\]"),
        (save({"embeddings": ONES, "offsets": ONES[:, :2].copy()}, META), "as wide as"),
        (save({"embeddings": ONES * np.nan}, META), "NaN"),
        (save({"embeddings": ONES * np.inf}, META), "infinity"),
        (save({"embeddings": ONES}), "metadata"),
        (save({"embeddings": ONES}, META | {"backbone": "x"} | {"extra": "fine"})[:-1], "not a soft prompt"),
        (save({"embeddings": ONES}, {k: v for k, v in META.items() if k != "run"}), r"lacks \['run'\]"),
        (save({"embeddings": ONES}, META | {"trained_parameters": "many"}), "not a soft prompt"),
        (b"", "cut short"),
        (b"\xff" * 64, "cut short"),
        ((2**40).to_bytes(8, "little") + b"{}" * 100, "cut short"),
        (header(b" " * 1_000_001), "cut short"),
        (header(b"[" * 100_000), "not a soft prompt"),
        (header(b'{"a":' * 100_000), "not a soft prompt"),
        (header(b"9" * 5_000), "not a soft prompt"),
        (header(b"[]"), "no metadata"),
        (header(b"null"), "no metadata"),
        (header(b'{"__metadata__":"backbone fingerprint method run"}'), "no metadata"),
        (tensor(META | {"run": 1}), "not a soft prompt"),
        (tensor(META, shape=[9, 9]), "not a soft prompt"),
        (tensor(META, shape=[-1, -1]), "not a soft prompt"),
        (tensor(META, shape=[2**40, 2**40]), "not a soft prompt"),
        (tensor(META, dtype="BF16", shape=[1, 2]), "refused|not a soft prompt"),
        (tensor(META, dtype="F8_E4M3", shape=[1, 4]), "refused|not a soft prompt"),
        (tensor(META, data_offsets=[0, 4000]), "not a soft prompt"),
    ],
)  # fmt: skip
def test_a_strangers_file_is_refused_by_name_and_reason(data: bytes, why: str) -> None:
    with pytest.raises(ForewordError, match=why) as caught:
        SoftTokens.from_bytes(data, "dir/strange.safetensors")
    assert "'dir/strange.safetensors'" in str(caught.value)
