"""Attention of one step over keys and values that rows keep. Knows tensors and slots; knows no prompts and no text.

A step lays R rows that write, one token each, and pieces of what is still being read in one sequence of T tokens. Every
row looks at the front of its prompt, which all rows behind it share, and at what is its own. The two are attended to
apart and put together by the sums of their exponentials, which is the same softmax (Dao 2022, FlashAttention, section
3.1): no row needs a copy of its front, and nothing of the front is padded to the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from foreword.backbone.layout import NEVER, OwnLayout
from foreword.serve.engines.local.kv_cache import Arena, Place


class Writes(NamedTuple):
    """A row that writes: where its keys and values are, and how many there are before this step's."""

    own: Place
    length: int
    front: Place | None
    front_length: int


class Reads(NamedTuple):
    """`tokens` of a row, or of a front, that are read in this step."""

    own: Place
    length: int
    tokens: int
    front: Place | None
    front_length: int


class _Own(NamedTuple):
    """Rows `start` to `stop`, whose own keys and values stand in one arena."""

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


class _Front(NamedTuple):
    """Fronts in one arena, and the rows behind each, filled up to as many behind every one."""

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
    """Whether all fronts are `width` tokens long."""


@dataclass
class Step(OwnLayout):
    """Where the tokens of a step stand: first the rows that write, in the order of `order`, then the pieces."""

    writes: Sequence[Writes]
    reads: Sequence[Reads]
    heads: int
    """KV heads."""
    device: torch.device
    layer: int = 0
    _masks: dict[int | None, "_Masks"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = [w.front_length + w.length for w in self.writes]
        ends += [r.front_length + r.length + r.tokens - 1 for r in self.reads]
        self.longest = max(ends)
        self.own = self._own()
        self.fronts, self.back, self.without = self._fronts()

    @staticmethod
    def order(row: Writes) -> tuple[int, int]:
        """Rows of one arena stand together, in the order of their slots."""
        return id(row.own.arena), row.own.slot

    @property
    def positions(self) -> Tensor:
        """[T] of every token, its front counted."""
        found = [w.front_length + w.length for w in self.writes]
        for r in self.reads:
            found += range(r.front_length + r.length, r.front_length + r.length + r.tokens)
        return torch.tensor(found, device=self.device)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """As `OwnLayout` has it; what is new of keys and values is kept."""
        layer, self.layer = self.layer, self.layer + 1
        if window is not None and window > self.longest:
            window = None
        if window not in self._masks:
            self._masks[window] = _Masks(self, window, query.shape[1] // key.shape[1], query.dtype)
        masks = self._masks[window]
        R = len(self.writes)
        outs = [self._write(layer, query, key, value, masks, scaling, softcap)] if R else []
        start = R
        for read, own, front in zip(self.reads, masks.reads, masks.read_fronts, strict=True):
            part = slice(start, start + read.tokens)
            q, k, v = query[0, :, part], key[0, :, part], value[0, :, part]
            outs.append(_read(layer, q, k, v, read, own, front, scaling, softcap))
            start += read.tokens
        return (outs[0] if len(outs) == 1 else torch.cat(outs))[None]

    def _write(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, masks: "_Masks",
        scaling: float, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        R, H, KV = len(self.writes), query.shape[1], key.shape[1]
        rows = query[0, :, :R].unflatten(0, (KV, H // KV)).permute(2, 0, 1, 3)  # [R, KV, shared, d]
        found = []
        for own, bias in zip(self.own, masks.own, strict=True):
            keys, values = own.arena.keys[layer], own.arena.values[layer]
            for kept, new in ((keys, key), (values, value)):
                kept.view(-1, kept.shape[3]).index_copy_(0, own.write, new[0, :, own.start : own.stop].flatten(0, 1))
            q = rows[own.start : own.stop]
            if own.rows is not None:
                q = q.index_select(0, own.rows)
            out, total = attention(
                q, keys[: own.slots, :, : own.width], values[: own.slots, :, : own.width], bias, scaling, softcap
            )
            if own.back is not None:
                out, total = out.index_select(0, own.back), total.index_select(0, own.back)
            found.append((out, total))
        out, total = _join(found)
        if self.fronts:
            of_fronts = [
                self._front(layer, rows, front, bias, scaling, softcap)
                for front, bias in zip(self.fronts, masks.fronts, strict=True)
            ]
            front, front_total = _join(of_fronts)
            if self.back is not None:
                front, front_total = front.index_select(0, self.back), front_total.index_select(0, self.back)
            if self.without is not None:
                front_total = front_total.masked_fill(self.without, NEVER)
            out = _together(out, total, front, front_total)
        return out.reshape(R, H, -1)

    def _front(
        self, layer: int, rows: Tensor, front: _Front, bias: Tensor | None, scaling: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """What rows [R, KV, shared, d] see of fronts: [slots · behind, KV, shared, d], and its sums."""
        if front.rows is not None:
            rows = rows.index_select(0, front.rows)
        G, n = front.slots, front.behind
        _, KV, shared, d = rows.shape
        q = rows.view(G, KV, shared, d) if n == 1 else rows.unflatten(0, (G, n)).transpose(1, 2).flatten(2, 3)
        out, total = attention(
            q,
            front.arena.keys[layer][:G, :, : front.width],
            front.arena.values[layer][:G, :, : front.width],
            bias,
            scaling,
            softcap,
        )
        if n == 1:
            return out, total
        out, total = out.unflatten(2, (n, shared)), total.unflatten(2, (n, shared))  # [G, KV, n, shared, …]
        return out.transpose(1, 2).flatten(0, 1), total.transpose(1, 2).flatten(0, 1)

    def _own(self) -> list[_Own]:
        result, start = [], 0
        for _, group in groupby(self.writes, key=lambda row: id(row.own.arena)):
            rows = list(group)
            arena, places = rows[0].own.arena, [row.own.slot for row in rows]
            slots, lengths = places[-1] + 1, [row.length for row in rows]
            in_order = slots == len(rows)
            filled = lengths
            if not in_order:
                filled = [0] * slots
                index = [0] * slots
                for i, row in enumerate(rows):
                    index[row.own.slot], filled[row.own.slot] = i, row.length
            at = torch.tensor([places, lengths])
            head = torch.arange(self.heads)[:, None]
            write = (((at[0] * self.heads) + head) * arena.tokens + at[1]).flatten()
            result.append(
                _Own(
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

    def _fronts(self) -> tuple[list[_Front], Tensor | None, Tensor | None]:
        """The fronts by arena; for every row its place among all that is behind them; which rows have none."""
        arenas: dict[int, tuple[Arena, dict[int, list[int]]]] = {}
        for i, row in enumerate(self.writes):
            if row.front is not None:
                _, slots = arenas.setdefault(id(row.front.arena), (row.front.arena, {}))
                slots.setdefault(row.front.slot, []).append(i)
        result: list[_Front] = []
        back, place = [0] * len(self.writes), 0
        for arena, slots in arenas.values():
            count, behind = max(slots) + 1, max(map(len, slots.values()))
            rows, lengths = [0] * (count * behind), [1] * count
            for slot, members in slots.items():
                lengths[slot] = self.writes[members[0]].front_length
                for j, i in enumerate(members):
                    rows[slot * behind + j] = i
                    back[i] = place + slot * behind + j
            width = max(lengths)
            at = torch.tensor([self.writes[i].front_length + self.writes[i].length for i in rows])
            in_order = rows == list(range(len(self.writes)))
            result.append(
                _Front(
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
        without = [row.front is None for row in self.writes]
        in_order = len(result) == 1 and back == list(range(place))
        return (
            result,
            None if in_order else torch.tensor(back, device=self.device),
            torch.tensor(without, device=self.device)[:, None, None] if any(without) else None,
        )


class _Masks:
    """What is added to scores in layers that see `window` tokens; the same for all of them."""

    def __init__(self, step: Step, window: int | None, shared: int, dtype: torch.dtype) -> None:
        device = step.device

        def bias(seen: Tensor) -> Tensor:
            return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, NEVER)

        self.own = []
        for own in step.own:
            there = own.lengths[:, None] - torch.arange(own.width, device=device)  # 0 for the new token itself
            self.own.append(bias((there >= 0) if window is None else (there >= 0) & (there < window))[:, None, None])
        self.fronts: list[Tensor | None] = []
        for front in step.fronts:
            keys = torch.arange(front.width, device=device)
            seen = (keys < front.lengths[:, None])[:, None]  # [G, 1, F]
            if window is not None:
                near = front.positions[:, :, None] - keys < window  # [G, n, F]
                seen = (seen & near).repeat_interleave(shared, 1)
            self.fronts.append(None if window is None and front.even else bias(seen)[:, None])
        self.reads: list[Tensor] = []
        self.read_fronts: list[Tensor | None] = []
        for read in step.reads:
            new = torch.arange(read.length, read.length + read.tokens, device=device)[:, None]
            apart = new - torch.arange(read.length + read.tokens, device=device)
            seen = (apart >= 0) if window is None else (apart >= 0) & (apart < window)
            self.reads.append(bias(seen).repeat(shared, 1)[None, None])
            apart = read.front_length + new - torch.arange(read.front_length, device=device)
            self.read_fronts.append(None if window is None else bias(apart < window).repeat(shared, 1)[None, None])


def _read(
    layer: int, q: Tensor, k: Tensor, v: Tensor, read: Reads, own: Tensor, front: Tensor | None,
    scaling: float, softcap: float | None,
) -> Tensor:  # fmt: skip
    """q [H, n, d], k and v [KV, n, d] → [n, H, d]."""
    KV, n, _ = k.shape
    keys, values = read.own.layer(layer, read.length + n)
    keys[:, read.length :], values[:, read.length :] = k, v
    q = q.unflatten(0, (KV, -1)).flatten(1, 2)[None]  # [1, KV, shared · n, d]
    out, total = attention(q, keys[None], values[None], own, scaling, softcap)
    if read.front is not None:
        keys, values = read.front.layer(layer, read.front_length)
        out = _together(out, total, *attention(q, keys[None], values[None], front, scaling, softcap))
    found: Tensor = out[0].unflatten(1, (-1, n)).flatten(0, 1).transpose(0, 1)
    return found


def _join(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(found) == 1:
        return found[0]
    return torch.cat([out for out, _ in found]), torch.cat([total for _, total in found])


def _together(a: Tensor, a_total: Tensor, b: Tensor, b_total: Tensor) -> Tensor:
    """Two softmaxes over different keys, as one over all of them."""
    return torch.lerp(a, b, torch.sigmoid(b_total - a_total)[..., None].to(a.dtype))


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """q [B, KV, m, d], k and v [B, KV, c, d], bias [B or 1, 1, m or 1, c] → [B, KV, m, d] and log-sums [B, KV, m].

    Queries that share a KV head are rows of one product. The sums are in fp32 or better.
    """
    if softcap is None and q.device.type == "cpu" and k.shape[-1] == v.shape[-1]:
        found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=bias, scale=scaling
        )
        return found
    scores = (q @ k.transpose(2, 3)).to(torch.promote_types(q.dtype, torch.float32)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(v.dtype) @ v, total
