"""Rows of many prompts in one sequence: what is read in pieces, what is written together. Knows ids and slots.

A row reserves all that it can come to need when it is admitted, so that none that has begun must ever give way.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from foreword.backbone.backbone import Backbone
from foreword.backbone.batch import PrefixCache
from foreword.errors import ForewordError
from foreword.serve.engines.local.attention import Reads, Step, Writes
from foreword.serve.engines.local.generation import Row
from foreword.serve.engines.local.kv_cache import Fronts, Key, Memory, Place, Shape, check
from foreword.serve.engines.local.linear import Decoding
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.seam import ModelError


class _Behind:
    """A front in a slot of its own, for as long as rows stand behind it."""

    def __init__(self, prepared: Prepared, place: Place) -> None:
        self.prepared, self.key, self.place = prepared, prepared.key, place
        self.length = prepared.front
        self.done = 0
        """Tokens that have been read."""
        self.embedded: Tensor | None = None
        self.rows: list[Row] = []
        self.spoiled = False

    @property
    def left(self) -> int:
        return self.length - self.done

    @property
    def ready(self) -> bool:
        return not self.left


class _State:
    """Where a row stands."""

    def __init__(self, own: Place) -> None:
        self.own = own
        self.front: _Behind | None = None
        self.embedded = torch.empty(0)
        """[n, D] of the prompt behind its front."""
        self.done = 0
        """Own tokens whose keys and values are there."""

    @property
    def left(self) -> int:
        """Tokens of the prompt that have not been read."""
        return max(len(self.embedded) - self.done, 0)

    @property
    def all_left(self) -> int:
        """The same with those of the front, which may be read for other rows too."""
        return self.left + (self.front.left if self.front else 0)

    @property
    def reading(self) -> bool:
        return self.left > 0

    def writes(self) -> Writes:
        front = self.front
        return Writes(self.own, self.done, *((front.place, front.length) if front else (None, 0)))

    def reads(self, count: int) -> Reads:
        front = self.front
        return Reads(self.own, self.done, count, *((front.place, front.length) if front else (None, 0)))


class Packed:
    """A `Runner` for families that let us attend."""

    def __init__(
        self, backbone: Backbone, kv_bytes: int, front_bytes: int, chunk: int, decoding: Decoding | None = None
    ) -> None:
        layers, heads, size = backbone.cache_shape
        self.fronts = Fronts(front_bytes)
        self._backbone, self._heads, self._chunk = backbone, heads, chunk
        self._memory = Memory(Shape(layers, heads, size, backbone.dtype, backbone.device), kv_bytes)
        self._behind: dict[Key, _Behind] = {}
        self._states: dict[Row, _State] = {}
        self.decoding = decoding or Decoding(backbone.model)

    @property
    def used(self) -> int:
        return self._memory.used

    @property
    def total(self) -> int:
        return self._memory.total

    def fits(self, row: Row) -> bool:
        """Whether there would be room for the row if it were alone."""
        front = row.prepared.front
        need = self._memory.bytes_for(_own(row)) + (self._memory.bytes_for(front) if front else 0)
        return need <= self._memory.total

    def admit(self, row: Row) -> bool:
        """As `Runner` has it."""
        prepared, F = row.prepared, row.prepared.front
        own = self._memory.take("row", _own(row))
        if own is None:
            return False
        state = self._states[row] = _State(own)
        try:
            if F and not self._stand_behind(row, state):
                self.release(row, spoiled=False)
                return False
            texts = int((prepared.ids[:F] >= 0).sum())
            state.embedded = self._backbone.embedder.embed_row(prepared.ids[F:], prepared.vectors, texts)
        except Exception:
            self.release(row, spoiled=True)
            raise
        return True

    def _stand_behind(self, row: Row, state: _State) -> bool:
        """The row's front in a slot: there already, computed before, or still to be read; False without room."""
        prepared = row.prepared
        front = self._behind.get(prepared.key)
        if front is not None:
            self.fronts.hits += 1
            row.cached = front.length
            state.front = front
            front.rows.append(row)
        else:
            place = self._memory.take("front", prepared.front)
            if place is None:
                return False
            state.front = front = self._behind[prepared.key] = _Behind(prepared, place)
            front.rows.append(row)
            kept = self.fronts.get(front.key)
            if kept is not None:
                self.fronts.hits += 1
                row.cached = front.length
                place.write(kept.cache)
                front.done = front.length
            else:
                self.fronts.misses += 1
                self._open(front)
        return True

    def _open(self, front: _Behind) -> None:
        """Begin to read a front: behind its prefix of keys and values, if it has one."""
        ids, vectors = front.prepared.ids[: front.length], front.prepared.vectors
        front.place.write(self._backbone.embedder.learned(ids, vectors))
        front.done = vectors.prefix
        front.embedded = self._backbone.embedder.embed_row(ids[vectors.prefix :], vectors)
        if front.ready:
            self._close(front)

    def _close(self, front: _Behind) -> None:
        """Keep a front that has been read; refuse its rows where it holds what is no number."""
        front.embedded = None
        cache = front.place.read(front.length)
        try:
            check(front.prepared.request.prompt, cache)
        except ModelError as error:
            front.spoiled = True
            del self._behind[front.key]  # the next request tries anew, behind a slot of its own
            for row in front.rows:
                row.fail(error)
                row.spoiled = True  # it may have looked at the front already
        else:
            self.fronts.put(front.key, PrefixCache(front.prepared.ids[: front.length], cache))

    def release(self, row: Row, *, spoiled: bool) -> None:
        """As `Runner` has it."""
        state = self._states.pop(row)
        if spoiled:
            state.own.arena.wipe(state.own.slot)
        self._memory.give(state.own)
        if (front := state.front) is None:
            return
        front.rows.remove(row)
        if not front.rows:
            if self._behind.get(front.key) is front:
                del self._behind[front.key]
            if front.spoiled or not front.ready:
                front.place.arena.wipe(front.place.slot)
            self._memory.give(front.place)

    def step(self) -> tuple[Sequence[Row], Tensor | None, int]:
        """As `Runner` has it: one token of every row that writes, and `chunk` tokens of what is read at most."""
        writing = [(row, state) for row, state in self._states.items() if not state.reading]
        ordered = sorted(((state.writes(), row, state) for row, state in writing), key=lambda item: Step.order(item[0]))
        reading = self._pieces()
        if not ordered and not reading:
            return [], None, 0
        reads = [
            Reads(owner.place, owner.done, count, None, 0) if isinstance(owner, _Behind) else owner.reads(count)
            for owner, count, _ in reading
        ]
        step = Step([writes for writes, _, _ in ordered], reads, self._heads, self._backbone.device)
        embedded = [self._words([row.last for _, row, _ in ordered])] if ordered else []
        rows, places, place = [row for _, row, _ in ordered], list(range(len(ordered))), len(ordered)
        for owner, count, row in reading:
            assert owner.embedded is not None
            start = owner.done - (owner.prepared.vectors.prefix if isinstance(owner, _Behind) else 0)
            embedded.append(owner.embedded[start : start + count])
            place += count
            if row is not None and start + count == len(owner.embedded):
                rows.append(row)
                places.append(place - 1)
        logits = self._forward(torch.cat(embedded), step, places or [place - 1])
        for _, _, state in ordered:
            state.done += 1
        for owner, count, _ in reading:
            owner.done += count
            if isinstance(owner, _Behind) and owner.ready:
                self._close(owner)
        return rows, logits if rows else None, place - len(ordered)

    def _pieces(self) -> list[tuple[_Behind | _State, int, Row | None]]:
        """What is read in this step: fronts, then the rows behind them.

        Half of the chunk is for the row that has been reading longest, the rest goes to those with the least left. So
        a short prompt need not wait until a long one is read, and no prompt is kept waiting by ever new short ones.

        In every layer a front's keys and values are there before the pieces after it look at them, so that rows need
        not wait for another step where the last of their front is read in this one.
        """
        reading = {row: state for row, state in self._states.items() if state.reading and not row.over}
        counts: dict[_Behind | _State, int] = {}

        def read(state: _State, most: int) -> int:
            """The front first; what the row may still take then is its own."""
            taken = 0
            for owner in (state.front, state):
                if owner is not None and (count := min(owner.left - counts.get(owner, 0), most - taken)) > 0:
                    counts[owner] = counts.get(owner, 0) + count
                    taken += count
            return taken

        left = self._chunk
        for state in [*reading.values()][:1]:
            left -= read(state, -(-left // 2))
        for state in sorted(reading.values(), key=lambda state: state.all_left):
            left -= read(state, left)
        fronts = [(owner, count, None) for owner, count in counts.items() if isinstance(owner, _Behind)]
        return fronts + [(state, counts[state], row) for row, state in reading.items() if state in counts]

    def _words(self, ids: list[int]) -> Tensor:
        found: Tensor = self._backbone.embedder.embed(torch.tensor(ids, device=self._backbone.device))
        return found

    def _forward(self, embedded: Tensor, step: Step, places: list[int]) -> Tensor:
        device = self._backbone.device
        with self.decoding.of(len(embedded)):
            output = self._backbone.model(
                inputs_embeds=embedded[None],
                position_ids=step.positions[None],
                attention_mask=torch.zeros(1, 1, 1, 1, device=device),  # four axes: the model passes it on as it is
                use_cache=False,
                logits_to_keep=torch.tensor(places, device=device),
                layout=step,
            )
        if step.layer != self._memory.shape.layers:
            raise ForewordError(f"{self._backbone.name!r} has layers that do not let Foreword attend for them")
        logits: Tensor = output.logits[0]
        return logits


def _own(row: Row) -> int:
    """Tokens that a row keeps at most: the last one that it writes is never read."""
    return len(row.prepared.ids) - row.prepared.front + row.limit - 1
