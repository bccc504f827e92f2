"""Attention of one step over keys and values in slots. Knows tensors and slots; knows no prompts and no text.

A step lays R decode rows, one token each, and prefill chunks in one sequence of T tokens. Every row attends to the
shared prefix of its prompt, which all rows of the prompt have in common, and to tokens of its own. The two are attended
to apart and merged by the sums of their exponentials, which is the same softmax (Dao 2022, FlashAttention, section
3.1): no row needs a copy of its shared prefix, and nothing of the prefix is padded to the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from foreword.backbone import NEVER, OwnLayout, additive, attention_scores
from foreword.serve.engines.local.kv_cache import Arena, Slot


class DecodeRow(NamedTuple):
    """A row that decodes one token: where its keys and values are, and how many there are before this step's."""

    own: Slot
    length: int
    prefix: Slot | None
    prefix_length: int


class PrefillChunk(NamedTuple):
    """`tokens` of a row, or of a shared prefix, that this step prefills behind `length` that are there."""

    own: Slot
    length: int
    tokens: int
    prefix: Slot | None
    prefix_length: int


class _DecodeGroup(NamedTuple):
    """Decode rows `start` to `stop`, whose own keys and values stand in one arena."""

    arena: Arena
    start: int
    stop: int
    slots: int
    width: int
    rows: Tensor | None
    """[slots] the row in every slot, counted from `start`; None where slot i holds row i."""
    back: Tensor | None
    """[rows] the slot of every row."""
    write: Tensor
    """[KV · rows] where each row's new key goes in the arena's flattened slots."""
    lengths: Tensor
    """[slots] tokens before this step's."""


class _PrefixGroup(NamedTuple):
    """Shared prefixes in one arena, and the decode rows behind each, filled up to as many behind every one."""

    arena: Arena
    slots: int
    width: int
    behind: int
    rows: Tensor | None
    """[slots · behind] rows; None where they stand in their order already."""
    lengths: Tensor
    """[slots]"""
    positions: Tensor
    """[slots, behind] of the rows' new tokens."""
    even: bool
    """Whether all prefixes are `width` tokens long."""


@dataclass
class BatchLayout(OwnLayout):
    """Where the tokens of a step stand: first the decode rows, in the order of `order`, then the prefill chunks."""

    rows: Sequence[DecodeRow]
    chunks: Sequence[PrefillChunk]
    heads: int
    """KV heads."""
    device: torch.device
    layer: int = 0
    _masks: dict[int | None, "_Masks"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = [row.prefix_length + row.length for row in self.rows]
        ends += [chunk.prefix_length + chunk.length + chunk.tokens - 1 for chunk in self.chunks]
        self.longest = max(ends)
        self.groups = self._groups()
        self.prefixes, self.back, self.without = self._prefixes()

    @staticmethod
    def order(row: DecodeRow) -> tuple[int, int]:
        """Rows of one arena stand together, in the order of their slots."""
        return id(row.own.arena), row.own.index

    @property
    def positions(self) -> Tensor:
        """[T] of every token, its shared prefix counted."""
        positions = [row.prefix_length + row.length for row in self.rows]
        for chunk in self.chunks:
            start = chunk.prefix_length + chunk.length
            positions += range(start, start + chunk.tokens)
        return torch.tensor(positions, device=self.device)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """As `OwnLayout` has it; the new keys and values are kept in their slots."""
        layer, self.layer = self.layer, self.layer + 1
        if window is not None and window > self.longest:
            window = None
        if window not in self._masks:
            self._masks[window] = _Masks(self, window, query.shape[1] // key.shape[1], query.dtype)
        masks = self._masks[window]
        R = len(self.rows)
        outs = [self._decode(layer, query, key, value, masks, scaling, softcap)] if R else []
        start = R
        for chunk, own, prefix in zip(self.chunks, masks.chunks, masks.chunk_prefixes, strict=True):
            part = slice(start, start + chunk.tokens)
            q, k, v = query[0, :, part], key[0, :, part], value[0, :, part]
            outs.append(_prefill(layer, q, k, v, chunk, own, prefix, scaling, softcap))
            start += chunk.tokens
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[None]

    def _decode(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, masks: "_Masks",
        scaling: float, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        R, H, KV = len(self.rows), query.shape[1], key.shape[1]
        rows = query[0, :, :R].unflatten(0, (KV, H // KV)).permute(2, 0, 1, 3)  # [R, KV, shared, d]
        parts = []
        for group, bias in zip(self.groups, masks.groups, strict=True):
            keys, values = group.arena.keys[layer], group.arena.values[layer]
            for kept, new in ((keys, key), (values, value)):
                kept.view(-1, kept.shape[3]).index_copy_(
                    0, group.write, new[0, :, group.start : group.stop].flatten(0, 1)
                )
            q = rows[group.start : group.stop]
            if group.rows is not None:
                q = q.index_select(0, group.rows)
            out, total = attention(
                q,
                keys[: group.slots, :, : group.width],
                values[: group.slots, :, : group.width],
                bias,
                scaling,
                softcap,
            )
            if group.back is not None:
                out, total = out.index_select(0, group.back), total.index_select(0, group.back)
            parts.append((out, total))
        out, total = _concatenate(parts)
        if self.prefixes:
            seen = [
                self._prefix(layer, rows, prefix, bias, scaling, softcap)
                for prefix, bias in zip(self.prefixes, masks.prefixes, strict=True)
            ]
            prefix, prefix_total = _concatenate(seen)
            if self.back is not None:
                prefix, prefix_total = prefix.index_select(0, self.back), prefix_total.index_select(0, self.back)
            if self.without is not None:
                prefix_total = prefix_total.masked_fill(self.without, NEVER)
            out = merge_softmax(out, total, prefix, prefix_total)
        return out.reshape(R, H, -1)

    def _prefix(
        self, layer: int, rows: Tensor, prefix: _PrefixGroup, bias: Tensor | None, scaling: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """What rows [R, KV, shared, d] see of shared prefixes: [slots · behind, KV, shared, d], and its log-sums."""
        if prefix.rows is not None:
            rows = rows.index_select(0, prefix.rows)
        G, n = prefix.slots, prefix.behind
        _, KV, shared, d = rows.shape
        q = rows.view(G, KV, shared, d) if n == 1 else rows.unflatten(0, (G, n)).transpose(1, 2).flatten(2, 3)
        out, total = attention(
            q,
            prefix.arena.keys[layer][:G, :, : prefix.width],
            prefix.arena.values[layer][:G, :, : prefix.width],
            bias,
            scaling,
            softcap,
        )
        if n == 1:
            return out, total
        out, total = out.unflatten(2, (n, shared)), total.unflatten(2, (n, shared))  # [G, KV, n, shared, …]
        return out.transpose(1, 2).flatten(0, 1), total.transpose(1, 2).flatten(0, 1)

    def _groups(self) -> list[_DecodeGroup]:
        """The decode rows by arena."""
        result, start = [], 0
        for _, group in groupby(self.rows, key=lambda row: id(row.own.arena)):
            rows = list(group)
            arena, places = rows[0].own.arena, [row.own.index for row in rows]
            slots, lengths = places[-1] + 1, [row.length for row in rows]
            in_order = slots == len(rows)
            filled = lengths
            if not in_order:
                filled = [0] * slots
                index = [0] * slots
                for i, row in enumerate(rows):
                    index[row.own.index], filled[row.own.index] = i, row.length
            at = torch.tensor([places, lengths])
            head = torch.arange(self.heads)[:, None]
            write = (((at[0] * self.heads) + head) * arena.tokens + at[1]).flatten()
            result.append(
                _DecodeGroup(
                    arena,
                    start,
                    start + len(rows),
                    slots,
                    max(lengths) + 1,
                    None if in_order else torch.tensor(index, device=self.device),
                    None if in_order else torch.tensor(places, device=self.device),
                    write.to(self.device),
                    torch.tensor(filled, device=self.device),
                )
            )
            start += len(rows)
        return result

    def _prefixes(self) -> tuple[list[_PrefixGroup], Tensor | None, Tensor | None]:
        """Shared prefixes by arena; for every decode row its place among all behind them; which rows have none."""
        arenas: dict[int, tuple[Arena, dict[int, list[int]]]] = {}
        for i, row in enumerate(self.rows):
            if row.prefix is not None:
                _, slots = arenas.setdefault(id(row.prefix.arena), (row.prefix.arena, {}))
                slots.setdefault(row.prefix.index, []).append(i)
        result: list[_PrefixGroup] = []
        back, place = [0] * len(self.rows), 0
        for arena, slots in arenas.values():
            count, behind = max(slots) + 1, max(map(len, slots.values()))
            rows, lengths = [0] * (count * behind), [1] * count
            for slot, members in slots.items():
                lengths[slot] = self.rows[members[0]].prefix_length
                for j, i in enumerate(members):
                    rows[slot * behind + j] = i
                    back[i] = place + slot * behind + j
            width = max(lengths)
            at = torch.tensor([self.rows[i].prefix_length + self.rows[i].length for i in rows])
            in_order = rows == list(range(len(self.rows)))
            result.append(
                _PrefixGroup(
                    arena,
                    count,
                    width,
                    behind,
                    None if in_order else torch.tensor(rows, device=self.device),
                    torch.tensor(lengths, device=self.device),
                    at.view(count, behind).to(self.device),
                    all(lengths[slot] == width for slot in slots),
                )
            )
            place += count * behind
        without = [row.prefix is None for row in self.rows]
        in_order = len(result) == 1 and back == list(range(place))
        return (
            result,
            None if in_order else torch.tensor(back, device=self.device),
            torch.tensor(without, device=self.device)[:, None, None] if any(without) else None,
        )


class _Masks:
    """What is added to the scores of layers that see `window` tokens, or all; made once for all of them."""

    def __init__(self, layout: BatchLayout, window: int | None, shared: int, dtype: torch.dtype) -> None:
        device = layout.device
        self.groups: list[Tensor] = []
        for group in layout.groups:
            apart = group.lengths[:, None] - torch.arange(group.width, device=device)  # 0 for the new token itself
            self.groups.append(additive(_within(apart, window), dtype)[:, None, None])
        self.prefixes: list[Tensor | None] = []
        for prefix in layout.prefixes:
            keys = torch.arange(prefix.width, device=device)
            seen = (keys < prefix.lengths[:, None])[:, None]  # [G, 1, F]
            if window is not None:
                near = prefix.positions[:, :, None] - keys < window  # [G, n, F]
                seen = (seen & near).repeat_interleave(shared, 1)
            self.prefixes.append(None if window is None and prefix.even else additive(seen, dtype)[:, None])
        self.chunks: list[Tensor] = []
        self.chunk_prefixes: list[Tensor | None] = []
        for chunk in layout.chunks:
            new = torch.arange(chunk.length, chunk.length + chunk.tokens, device=device)[:, None]
            apart = new - torch.arange(chunk.length + chunk.tokens, device=device)
            self.chunks.append(additive(_within(apart, window), dtype).repeat(shared, 1)[None, None])
            apart = chunk.prefix_length + new - torch.arange(chunk.prefix_length, device=device)
            bias = None if window is None else additive(apart < window, dtype).repeat(shared, 1)[None, None]
            self.chunk_prefixes.append(bias)


def _within(apart: Tensor, window: int | None) -> Tensor:
    """Which keys are seen, by how many tokens before the query they stand."""
    return (apart >= 0) if window is None else (apart >= 0) & (apart < window)


def _prefill(
    layer: int, q: Tensor, k: Tensor, v: Tensor, chunk: PrefillChunk, own: Tensor, prefix: Tensor | None,
    scaling: float, softcap: float | None,
) -> Tensor:  # fmt: skip
    """q [H, n, d], k and v [KV, n, d] → [n, H, d]."""
    KV, n, _ = k.shape
    keys, values = chunk.own.layer(layer, chunk.length + n)
    keys[:, chunk.length :], values[:, chunk.length :] = k, v
    q = q.unflatten(0, (KV, -1)).flatten(1, 2)[None]  # [1, KV, shared · n, d]
    out, total = attention(q, keys[None], values[None], own, scaling, softcap)
    if chunk.prefix is not None:
        keys, values = chunk.prefix.layer(layer, chunk.prefix_length)
        out = merge_softmax(out, total, *attention(q, keys[None], values[None], prefix, scaling, softcap))
    heads: Tensor = out[0].unflatten(1, (-1, n)).flatten(0, 1).transpose(0, 1)
    return heads


def _concatenate(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    return torch.cat([out for out, _ in parts]), torch.cat([total for _, total in parts])


def merge_softmax(a: Tensor, a_total: Tensor, b: Tensor, b_total: Tensor) -> Tensor:
    """Attention over two sets of keys, each with the log-sums of its scores, as attention over all of them."""
    return torch.lerp(a, b, torch.sigmoid(b_total - a_total)[..., None].to(a.dtype))


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """q [B, KV, m, d], k and v [B, KV, c, d], bias [B or 1, 1, m or 1, c] → [B, KV, m, d] and log-sums [B, KV, m].

    Queries that share a KV head are rows of one product. The sums are in fp32 or better.
    """
    if softcap is None and q.device.type == "cpu" and k.shape[-1] == v.shape[-1]:
        fused: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=bias, scale=scaling
        )
        return fused
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = attention_scores(q @ k.transpose(2, 3), scaling, softcap, bias, dtype)
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(v.dtype) @ v, total
