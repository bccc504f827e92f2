"""Rows of many prompts in one forward pass: prompts prefilled in chunks, tokens decoded together. Knows ids and slots.

A row reserves all that it can come to need when it is admitted, so that none that has begun must ever give way.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from foreword.backbone import Backbone, PrefixCache
from foreword.errors import ForewordError
from foreword.serve.engines.local.attention import BatchLayout, DecodeRow, PrefillChunk
from foreword.serve.engines.local.generation import Generation
from foreword.serve.engines.local.kv_cache import Key, KVMemory, KVShape, PrefixCaches, Slot, check_finite
from foreword.serve.engines.local.linear import DecodeLinears
from foreword.serve.engines.prepare import Prepared
from foreword.serve.engines.seam import ModelError


class _SharedPrefix:
    """A shared prefix in a slot of its own, for as long as rows stand behind it."""

    def __init__(self, prepared: Prepared, slot: Slot) -> None:
        self.prepared, self.key, self.slot = prepared, prepared.prefix_cache_key, slot
        self.length = prepared.shared_prefix_length
        self.done = 0
        """Tokens whose keys and values are there."""
        self.embedded: Tensor | None = None
        """[n, D] of what has to be prefilled, while it is."""
        self.rows: list[Generation] = []
        self.non_finite = False

    @property
    def left(self) -> int:
        """Tokens that have not been prefilled."""
        return self.length - self.done

    @property
    def ready(self) -> bool:
        return not self.left

    @property
    def next(self) -> int:
        """Where in `embedded` the next chunk begins."""
        return self.done - self.prepared.vectors.prefix

    def chunk(self, count: int) -> PrefillChunk:
        return PrefillChunk(self.slot, self.done, count, None, 0)


class _State:
    """Where a row stands."""

    def __init__(self, own: Slot) -> None:
        self.own = own
        self.prefix: _SharedPrefix | None = None
        self.embedded = torch.empty(0)
        """[n, D] of the prompt behind its shared prefix."""
        self.done = 0
        """Own tokens whose keys and values are there."""

    @property
    def left(self) -> int:
        """Tokens of the prompt that have not been prefilled."""
        return max(len(self.embedded) - self.done, 0)

    @property
    def all_left(self) -> int:
        """The same with those of the shared prefix, which may be prefilled for other rows too."""
        return self.left + (self.prefix.left if self.prefix else 0)

    @property
    def next(self) -> int:
        """Where in `embedded` the next chunk begins."""
        return self.done

    def decode_row(self) -> DecodeRow:
        return DecodeRow(self.own, self.done, *self._behind())

    def chunk(self, count: int) -> PrefillChunk:
        return PrefillChunk(self.own, self.done, count, *self._behind())

    def _behind(self) -> tuple[Slot | None, int]:
        return (self.prefix.slot, self.prefix.length) if self.prefix else (None, 0)


class BatchedRunner:
    """A `Runner` for families that let us attend: all rows share every step of the model."""

    def __init__(
        self,
        backbone: Backbone,
        kv_bytes: int,
        prefix_cache_bytes: int,
        chunk: int,
        linears: DecodeLinears | None = None,
    ) -> None:
        layers, heads, size = backbone.cache_shape
        self.prefix_caches = PrefixCaches(prefix_cache_bytes)
        self._backbone, self._heads, self._chunk = backbone, heads, chunk
        self._memory = KVMemory(KVShape(layers, heads, size, backbone.dtype, backbone.device), kv_bytes)
        self._prefixes: dict[Key, _SharedPrefix] = {}
        self._states: dict[Generation, _State] = {}
        self.linears = linears or DecodeLinears(backbone.model)

    @property
    def used(self) -> int:
        """As `Runner` has it."""
        return self._memory.used

    @property
    def total(self) -> int:
        """As `Runner` has it."""
        return self._memory.total

    def fits(self, row: Generation) -> bool:
        """As `Runner` has it."""
        F = row.prepared.shared_prefix_length
        need = self._memory.bytes_for(_own_tokens(row)) + (self._memory.bytes_for(F) if F else 0)
        return need <= self._memory.total

    def admit(self, row: Generation) -> bool:
        """As `Runner` has it."""
        prepared, F = row.prepared, row.prepared.shared_prefix_length
        own = self._memory.take("row", _own_tokens(row))
        if own is None:
            return False
        state = self._states[row] = _State(own)
        try:
            if F and not self._stand_behind_prefix(row, state):
                self.release(row, wipe=False)
                return False
            texts = int((prepared.ids[:F] >= 0).sum())
            state.embedded = self._backbone.embedder.embed_row(prepared.ids[F:], prepared.vectors, texts)
        except Exception:
            self.release(row, wipe=True)
            raise
        return True

    def _stand_behind_prefix(self, row: Generation, state: _State) -> bool:
        """Put the row's shared prefix in a slot: there, cached, or still to be prefilled. False without room."""
        prepared = row.prepared
        prefix = self._prefixes.get(prepared.prefix_cache_key)
        if prefix is not None:
            self.prefix_caches.hits += 1
            row.cached = prefix.length
            state.prefix = prefix
            prefix.rows.append(row)
            return True
        slot = self._memory.take("prefix", prepared.shared_prefix_length)
        if slot is None:
            return False
        state.prefix = prefix = self._prefixes[prepared.prefix_cache_key] = _SharedPrefix(prepared, slot)
        prefix.rows.append(row)
        cache = self.prefix_caches.get(prefix.key)
        if cache is not None:
            self.prefix_caches.hits += 1
            row.cached = prefix.length
            slot.write(cache.cache)
            prefix.done = prefix.length
        else:
            self.prefix_caches.misses += 1
            self._begin_prefix(prefix)
        return True

    def _begin_prefix(self, prefix: _SharedPrefix) -> None:
        """Begin to prefill a shared prefix: behind its learned keys and values, if it has any."""
        ids, vectors = prefix.prepared.ids[: prefix.length], prefix.prepared.vectors
        prefix.slot.write(self._backbone.embedder.learned(ids, vectors))
        prefix.done = vectors.prefix
        prefix.embedded = self._backbone.embedder.embed_row(ids[vectors.prefix :], vectors)
        if prefix.ready:
            self._end_prefix(prefix)

    def _end_prefix(self, prefix: _SharedPrefix) -> None:
        """Cache a shared prefix that has been prefilled; refuse its rows where it is not finite."""
        prefix.embedded = None
        cache = prefix.slot.read(prefix.length)
        try:
            check_finite(prefix.prepared.request.prompt, cache)
        except ModelError as error:
            prefix.non_finite = True
            del self._prefixes[prefix.key]  # the next request tries anew, in a slot of its own
            for row in prefix.rows:
                row.fail(error)
                row.non_finite = True  # it may have attended to the prefix already
        else:
            self.prefix_caches.put(prefix.key, PrefixCache(prefix.prepared.ids[: prefix.length], cache))

    def release(self, row: Generation, *, wipe: bool) -> None:
        """As `Runner` has it."""
        state = self._states.pop(row)
        if wipe:
            self._memory.wipe(state.own)
        self._memory.give_back(state.own)
        if (prefix := state.prefix) is None:
            return
        prefix.rows.remove(row)
        if not prefix.rows:
            if self._prefixes.get(prefix.key) is prefix:
                del self._prefixes[prefix.key]
            if prefix.non_finite or not prefix.ready:
                self._memory.wipe(prefix.slot)
            self._memory.give_back(prefix.slot)

    def step(self) -> tuple[Sequence[Generation], Tensor | None, int]:
        """As `Runner` has it: one token of every row that decodes, and at most `chunk` tokens of prefill."""
        decoding = [(state.decode_row(), row, state) for row, state in self._states.items() if not state.left]
        decoding.sort(key=lambda item: BatchLayout.order(item[0]))
        prefill = self._prefill_chunks()
        if not decoding and not prefill:
            return [], None, 0
        chunks = [owner.chunk(count) for owner, count, _ in prefill]
        layout = BatchLayout([row for row, _, _ in decoding], chunks, self._heads, self._backbone.device)
        embedded = [self._embed([row.last for _, row, _ in decoding])] if decoding else []
        rows, places, place = [row for _, row, _ in decoding], list(range(len(decoding))), len(decoding)
        for owner, count, row in prefill:
            assert owner.embedded is not None
            start = owner.next
            embedded.append(owner.embedded[start : start + count])
            place += count
            if row is not None and start + count == len(owner.embedded):
                rows.append(row)
                places.append(place - 1)
        logits = self._forward(torch.cat(embedded), layout, places or [place - 1])
        for _, _, state in decoding:
            state.done += 1
        for owner, count, _ in prefill:
            owner.done += count
            if isinstance(owner, _SharedPrefix) and owner.ready:
                self._end_prefix(owner)
        return rows, logits if rows else None, place - len(decoding)

    def _prefill_chunks(self) -> list[tuple[_SharedPrefix | _State, int, Generation | None]]:
        """What is prefilled in this step, and how many tokens of it: shared prefixes, then the rows behind them.

        Half of the chunk is for the row that has been prefilling longest, the rest goes to those with the least left.
        So a short prompt need not wait until a long one is read, and no prompt is kept waiting by ever new short ones.

        In every layer a shared prefix' keys and values are there before the chunks after it attend to them, so that
        rows need not wait for another step where the last of their prefix is prefilled in this one.
        """
        prefilling = {row: state for row, state in self._states.items() if state.left and not row.over}
        counts: dict[_SharedPrefix | _State, int] = {}

        def take(state: _State, most: int) -> int:
            """The shared prefix first; what the row may still take then is its own."""
            taken = 0
            for owner in (state.prefix, state):
                if owner is not None and (count := min(owner.left - counts.get(owner, 0), most - taken)) > 0:
                    counts[owner] = counts.get(owner, 0) + count
                    taken += count
            return taken

        left = self._chunk
        for state in [*prefilling.values()][:1]:
            left -= take(state, -(-left // 2))
        for state in sorted(prefilling.values(), key=lambda state: state.all_left):
            left -= take(state, left)
        prefixes = [(owner, count, None) for owner, count in counts.items() if isinstance(owner, _SharedPrefix)]
        return prefixes + [(state, counts[state], row) for row, state in prefilling.items() if state in counts]

    def _embed(self, ids: list[int]) -> Tensor:
        embedded: Tensor = self._backbone.embedder.embed(torch.tensor(ids, device=self._backbone.device))
        return embedded

    def _forward(self, embedded: Tensor, layout: BatchLayout, places: list[int]) -> Tensor:
        """Logits [M, V] at M `places` of the sequence of embeddings [T, D]."""
        device = self._backbone.device
        with self.linears.of(len(embedded)):
            output = self._backbone.model(
                inputs_embeds=embedded[None],
                position_ids=layout.positions[None],
                attention_mask=torch.zeros(1, 1, 1, 1, device=device),  # four axes: the model passes it on as it is
                use_cache=False,
                logits_to_keep=torch.tensor(places, device=device),
                layout=layout,
            )
        if layout.layer != self._memory.shape.layers:
            raise ForewordError(f"{self._backbone.name!r} has layers that do not let Foreword attend for them")
        logits: Tensor = output.logits[0]
        return logits


def _own_tokens(row: Generation) -> int:
    """Tokens that a row keeps at most: the last one that it writes is never read."""
    return len(row.prepared.ids) - row.prepared.shared_prefix_length + row.limit - 1
