"""Which prompts are served: what names stand for now, which of them are in memory, which are refused and why.

Knows the prompt table and prompts; whether one can run is a function that it is given. Knows refusals,
and neither requests nor engines.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt
from foreword.serve.http.refusals import Refusal, unknown
from foreword.serve.log import write
from foreword.table import Head
from foreword.table.refs import LATEST, Ref, parse

POLL_SECONDS = 1.0
"""Between two looks at the table: how long an alias that has moved stands for its old version."""
LOOK_SECONDS = 0.2
"""Between two looks that unknown names cause."""
RETRY_SECONDS = 10.0
"""After which a prompt that was refused is read once more: its file may have been repaired."""
AWAY = "table_away"


class Table(Protocol):
    """What is needed of a PromptTable."""

    def heads(self) -> list[Head]:
        """The versions that names and aliases stand for."""
        ...

    def get(self, ref: str) -> Prompt:
        """One version."""
        ...


@dataclass(frozen=True)
class Served:
    """A version on its way to the engine."""

    key: str
    """`name:version`"""
    prompt: Prompt


class Prompts:
    """All prompts of a table. A table that cannot be reached changes nothing for those that are in memory.

    `check` raises ForewordError for a prompt that cannot run here; `fingerprint` is the backbone's; `dropped` hears
    of versions that have left the memory.
    """

    def __init__(
        self,
        table: Table,
        check: Callable[[Prompt], None],
        fingerprint: str,
        max_bytes: int,
        dropped: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._table, self._check, self._fingerprint, self._max_bytes = table, check, fingerprint, max_bytes
        self._dropped = dropped
        self._threads = ThreadPoolExecutor(2, "prompts")
        self._heads: dict[tuple[str, int], Head] = {}
        self._stands: dict[tuple[str, str], int] = {}
        self._loaded: OrderedDict[tuple[str, int], Prompt] = OrderedDict()
        self._bytes = 0
        self._loading: dict[tuple[str, int], asyncio.Task[Prompt]] = {}
        self._refused: dict[tuple[str, int], tuple[float, str]] = {}
        self._pinned: set[tuple[str, int]] = set()
        self._out: set[tuple[str, int]] = set()
        self._full = False
        """Whether something has had to leave: what is not asked for is not loaded any more."""
        self._looked = -LOOK_SECONDS
        """When the last look that has ended began."""
        self._asking = asyncio.Lock()
        self.problem: str | None = None
        """What is wrong with the table; None: nothing."""

    async def look(self) -> bool:
        """Read what names stand for; whether anything has changed. Raises ForewordError when the table is away."""
        began = time.monotonic()
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._table.heads)
            self.problem = None
        except Exception as error:  # a damaged database can raise anything; what is in memory is served on
            self.problem = str(error) if isinstance(error, ForewordError) else f"it gives {type(error).__name__}"
            raise ForewordError(self.problem) from error
        finally:
            self._looked = max(self._looked, began)
        heads = {(head.name, head.version): head for head in found}
        if heads == self._heads:
            return False
        for place in self._heads.keys() & heads.keys():
            if heads[place].digest != self._heads[place].digest:  # another table has taken this one's place
                self._forget(place)
                self._refused.pop(place, None)
        for place in self._heads.keys() - heads.keys():
            self._dropped(_key(place))
        stands = {(head.name, alias): head.version for head in found for alias in head.aliases}
        self._heads, self._stands = heads, stands | {(h.name, LATEST): h.version for h in found if h.newest}
        return True

    async def warm(self) -> None:
        """Bring into memory what names and aliases stand for, as far as there is room."""
        for place in list(self._heads):
            if self._full or self._bytes >= self._max_bytes:
                return
            if place not in self._loaded and self.reason(place) is None:
                try:
                    await self._load(place)
                except (ForewordError, Refusal):
                    continue  # is remembered, and told to whoever asks for it

    async def get(self, model: str) -> Served:
        """The version that `name`, `name@alias` or `name:3` stands for now. Raises Refusal."""
        place = await self._place(model)
        if self.reason(place) is not None:
            raise _refusal(place)
        prompt = self._loaded.get(place)
        if prompt is None:
            prompt = await self._load(place)
        elif place not in self._heads and self.problem is None:  # looks do not tell whether it has been deleted
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    prompt = await self._load(place)
            except TimeoutError:  # the table says nothing at all
                pass
            except Refusal as refusal:
                if refusal.code != AWAY:
                    raise
        if place in self._loaded:
            self._loaded.move_to_end(place)
        return Served(_key(place), prompt)

    def reason(self, place: tuple[str, int]) -> str | None:
        """Why a version is not served; None where it is, as far as is known yet."""
        if place in self._out:
            return "unloaded"
        at, said = self._refused.get(place, (0.0, ""))
        if said and time.monotonic() - at < RETRY_SECONDS:
            return said
        head = self._heads.get(place)
        if head is not None and head.virtual_tokens and head.fingerprint != self._fingerprint:
            return "tuned on another backbone" if head.fingerprint else "not tuned yet: it has no vectors"
        return None

    def names(self) -> list[tuple[str, Head]]:
        """All models that prompts give: `name`, `name@alias`, `name:3`, each with what it stands for."""
        served = [head for place, head in self._heads.items() if self.reason(place) is None]
        found = []
        for head in served:
            found += [(head.name, head)] if head.newest else []
            found += [*((f"{head.name}@{alias}", head) for alias in head.aliases), (head.ref, head)]
        return found

    def state(self) -> list[dict[str, object]]:
        """Every version that is known, for administrators."""
        return [
            {
                "prompt": _key(place),
                "newest": head is not None and head.newest,
                "aliases": list(head.aliases) if head is not None else [],
                "virtual_tokens": head.virtual_tokens if head is not None else self._loaded[place].virtual_tokens,
                "loaded": place in self._loaded,
                "pinned": place in self._pinned,
                "refused": self.reason(place),
            }
            for place in sorted(self._heads.keys() | self._loaded.keys())
            for head in [self._heads.get(place)]
        ]

    async def load(self, model: str) -> Served:
        """Bring a version into memory, and back into service; read anew even where it was refused before."""
        place = await self._place(model)
        self._out.discard(place)
        self._refused.pop(place, None)
        return await self.get(_key(place))

    async def pin(self, model: str) -> Served:
        """Load a version and keep it in memory, whatever else is served."""
        served = await self.load(model)
        self._pinned.add(_place(served.key))
        return served

    async def unpin(self, model: str) -> str:
        """Let a version leave the memory when there is need."""
        place = await self._place(model)
        self._pinned.discard(place)
        self._make_room()
        return _key(place)

    async def unload(self, model: str) -> str:
        """Take a version out of memory and of service; requests under way finish on it."""
        place = await self._place(model)
        self._pinned.discard(place)
        self._out.add(place)
        self._forget(place)
        return _key(place)

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _place(self, model: str) -> tuple[str, int]:
        try:
            ref = parse(model)
        except UsageError as error:
            raise unknown(f"there is no model {model!r:.200}: {error!s:.300}") from None
        if ref.version is not None:
            place = ref.name, ref.version
            if place in self._heads or place in self._loaded:
                return place
        version = self._version(ref)
        if version is None:  # it may be new
            await self._look_once()
            version = self._version(ref)
        if version is None:
            raise unknown(f"there is no model {model!r}; GET /v1/models tells which there are")
        return ref.name, version

    async def _look_once(self) -> None:
        """One look for all that ask for unknown names at the same time, and not too many of them."""
        asked = time.monotonic()
        async with self._asking:
            if self._looked >= asked:
                if self.problem is not None:
                    raise _away()
                return
            await asyncio.sleep(max(0.0, self._looked + LOOK_SECONDS - asked))
            try:
                await self.look()
            except ForewordError:
                raise _away() from None

    def _version(self, ref: Ref) -> int | None:
        newest = self._stands.get((ref.name, LATEST))
        if ref.version is not None:  # an older one, which no name stands for, is known once it is read
            return ref.version if newest is not None and ref.version <= newest else None
        return newest if ref.alias is None else self._stands.get((ref.name, ref.alias))

    async def _load(self, place: tuple[str, int]) -> Prompt:
        task = self._loading.get(place)
        if task is None:  # else another request waits for it already
            task = self._loading[place] = asyncio.create_task(self._read(place))
            task.add_done_callback(lambda done: self._read_done(place, done))
        return await asyncio.shield(task)

    def _read_done(self, place: tuple[str, int], task: asyncio.Task[Prompt]) -> None:
        self._loading.pop(place, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have waited to the end

    async def _read(self, place: tuple[str, int]) -> Prompt:
        held = self._loaded.get(place)

        def read() -> Prompt:
            prompt = self._table.get(_key(place))
            if prompt is not held:
                self._check(prompt)
            return prompt

        try:
            prompt = await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except UsageError as error:
            self._forget(place)
            raise unknown(str(error)) from None
        except Exception as error:
            if _is_away(error):
                raise _away() from None
            said = str(error) if isinstance(error, ForewordError) else f"reading it gives {type(error).__name__}"
            self._forget(place)
            self._refused[place] = (time.monotonic(), said)
            write("prompt refused", logging.WARNING, prompt=_key(place), problem=said)
            raise _refusal(place) from None
        self._refused.pop(place, None)
        if place not in self._out:  # it may have been unloaded meanwhile
            self._keep(place, prompt)
        return prompt

    def _keep(self, place: tuple[str, int], prompt: Prompt) -> None:
        old = self._loaded.get(place)
        self._bytes += _size(prompt) - (_size(old) if old is not None else 0)
        self._loaded[place] = prompt
        self._make_room(place)

    def _make_room(self, newest: tuple[str, int] | None = None) -> None:
        if self._bytes <= self._max_bytes:
            return
        for place in [place for place in self._loaded if place not in self._pinned and place != newest]:
            self._forget(place)
            self._full = True
            if self._bytes <= self._max_bytes:
                return

    def _forget(self, place: tuple[str, int]) -> None:
        if (prompt := self._loaded.pop(place, None)) is not None:
            self._bytes -= _size(prompt)
            self._full = False
            self._dropped(_key(place))


def _is_away(error: Exception) -> bool:
    """Whether the table failed, and not the prompt."""
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error.__cause__, SQLAlchemyError)


def _away() -> Refusal:
    said = "this prompt is not in memory, and the prompt table cannot be reached"
    return Refusal(503, said, AWAY, retry_after=RETRY_SECONDS)


def _refusal(place: tuple[str, int]) -> Refusal:
    """The reason may name files of this machine, which are no business of every client."""
    said = f"prompt {_key(place)!r} is not served here; GET /admin/prompts tells an administrator why"
    return unknown(said, "prompt_refused")


def _size(prompt: Prompt) -> int:
    vectors = sum(tensor.nbytes for tensor in prompt.soft.tensors.values()) if prompt.soft is not None else 0
    return len(prompt.body) + vectors


def _key(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"


def _place(key: str) -> tuple[str, int]:
    name, _, version = key.rpartition(":")
    return name, int(version)
