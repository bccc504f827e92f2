"""How far two prompts' vectors are apart, token by token, and how far each has gone from its start. Knows arrays only.

A token of a prefix is one long vector: its keys, or its values, of all layers and heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from foreword.errors import UsageError
from foreword.prompts.soft import FIELDS, SoftTokens

T = TypeVar("T")
Arrays = Mapping[str, np.ndarray]
"""A prompt's tensors, by the names in its file."""


@dataclass(frozen=True)
class Apart:
    """One vector from another."""

    cosine: float | None
    """None where one of them is zero."""
    distance: float
    """Euclidean, on the scale of the backbone's own vectors."""


@dataclass(frozen=True)
class Token:
    """One virtual token, in A and in B. What a prompt does not have, or what is not known, is None."""

    index: int
    norm_a: float | None
    norm_b: float | None
    apart: Apart | None
    """A from B."""
    moved_a: Apart | None = None
    """A from where its tuning began."""
    moved_b: Apart | None = None

    def to_json(self) -> dict[str, Any]:
        """Flat: `token`, `norm_a`, `norm_b`, `cosine`, `distance`, and `start_cosine_a` and so on where known."""
        found: dict[str, Any] = {"token": self.index, "norm_a": self.norm_a, "norm_b": self.norm_b}
        found |= vars(self.apart) if self.apart else {"cosine": None, "distance": None}
        for side, moved in (("a", self.moved_a), ("b", self.moved_b)):
            if moved is not None:
                found |= {f"start_cosine_{side}": moved.cosine, f"start_distance_{side}": moved.distance}
        return found


@dataclass(frozen=True)
class SoftDiff:
    """The vectors of A and of B."""

    a: SoftTokens | None
    b: SoftTokens | None
    reason: str
    """Why the two are not compared with each other; empty where they are."""
    tensors: Mapping[str, tuple[Token, ...]]
    """Every tensor that one of them has, by its name: `embeddings`; `keys` and `values`; `offsets`."""

    def with_starts(self, a: Arrays | None, b: Arrays | None) -> "SoftDiff":
        """This, with how far each has moved from its start, where that is known. Raises UsageError on other shapes."""
        found = dict(self.tensors)
        for side, soft, start in (("a", self.a, a), ("b", self.b, b)):
            if soft is None or start is None:
                continue
            shapes = [{name: tensor.shape for name, tensor in given.items()} for given in (soft.tensors, start)]
            if shapes[0] != shapes[1]:
                raise UsageError(f"a start of shape {shapes[1]} cannot be that of vectors of shape {shapes[0]}")
            for name, tensor in soft.tensors.items():
                moved = _apart(_rows(tensor), _rows(start[name]))
                found[name] = tuple(_moved(token, side, _at(moved, token.index)) for token in found[name])
        return replace(self, tensors=found)

    def to_json(self) -> dict[str, Any]:
        """`a` and `b`: what each is; `not_compared`; `tokens`, by tensor."""
        tokens = {name: [token.to_json() for token in tokens] for name, tokens in self.tensors.items()}
        return {
            "a": vector_facts(self.a),
            "b": vector_facts(self.b),
            "not_compared": self.reason or None,
            "tokens": tokens,
        }

    def __str__(self) -> str:
        if self.reason:
            return f"vectors: not compared, {self.reason}"
        lines = []
        for name, tokens in self.tensors.items():
            cosines = [t.apart.cosine for t in tokens if t.apart and t.apart.cosine is not None]
            distances = [token.apart.distance for token in tokens if token.apart]
            mean = f", cosine {np.mean(cosines):.3f} in the mean" if cosines else ""
            lines.append(f"{name}: {len(tokens)} tokens{mean}, distance {max(distances, default=0.0):.3g} at most")
        return "\n".join(lines)


def soft_diff(a: SoftTokens | None, b: SoftTokens | None) -> SoftDiff:
    """Token i of A against token i of B; only vectors that were learned on one backbone are compared."""
    reason = _not_comparable(a, b)
    tensors = {}
    for name in dict.fromkeys([*(a.tensors if a else ()), *(b.tensors if b else ())]):
        rows_a, rows_b = (_rows(soft.tensors[name]) if soft and name in soft.tensors else None for soft in (a, b))
        norms_a, norms_b = ([] if rows is None else np.linalg.norm(rows, axis=1).tolist() for rows in (rows_a, rows_b))
        apart = [] if reason or rows_a is None or rows_b is None else _apart(rows_a, rows_b)
        tensors[name] = tuple(
            Token(i, _at(norms_a, i), _at(norms_b, i), _at(apart, i)) for i in range(max(len(norms_a), len(norms_b)))
        )
    return SoftDiff(a, b, reason, tensors)


def vector_facts(soft: SoftTokens | None) -> dict[str, Any] | None:
    """What is known of vectors beside their numbers."""
    if soft is None:
        return None
    shapes = {name: list(tensor.shape) for name, tensor in soft.tensors.items()}
    return {field: getattr(soft, field) for field in FIELDS} | {"virtual_tokens": len(soft), "shapes": shapes}


def _not_comparable(a: SoftTokens | None, b: SoftTokens | None) -> str:
    if a is None or b is None:
        return f"{'A' if a is None else 'B'} has none"
    if a.fingerprint != b.fingerprint:
        return f"A is of {a.backbone!r} ({a.fingerprint[:12]}), B of {b.backbone!r} ({b.fingerprint[:12]})"
    shared = set(a.tensors) & set(b.tensors)
    if not shared:
        return f"A holds {' and '.join(sorted(a.tensors))}, B {' and '.join(sorted(b.tensors))}"
    widths = [{name: _rows(soft.tensors[name]).shape[1] for name in sorted(shared)} for soft in (a, b)]
    return "" if widths[0] == widths[1] else f"A's numbers per token are {widths[0]}, B's {widths[1]}"


def _at(values: Sequence[T], index: int) -> T | None:
    return values[index] if index < len(values) else None


def _moved(token: Token, side: str, moved: Apart | None) -> Token:
    return replace(token, moved_a=moved) if side == "a" else replace(token, moved_b=moved)


def _rows(tensor: np.ndarray) -> np.ndarray:
    """A row to a token, float64: [P, D] as it is; [L, H, P, head_dim] as [P, L · H · head_dim]."""
    rows = tensor if tensor.ndim == 2 else np.moveaxis(tensor, 2, 0).reshape(tensor.shape[2], -1)
    return rows.astype(np.float64)


def _apart(a: np.ndarray, b: np.ndarray) -> list[Apart]:
    """Row by row, as far as both go."""
    count = min(len(a), len(b))
    a, b = a[:count], b[:count]
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots, distances = np.einsum("ij,ij->i", a, b), np.linalg.norm(a - b, axis=1)
    return [
        Apart(float(np.clip(dot / length, -1, 1)) if length else None, float(distance))
        for dot, length, distance in zip(dots, lengths, distances, strict=True)
    ]
