"""Which prompts are served: those that are in memory, those that are refused and why, those that are out of service.

Knows prompts, and names by ModelNames; whether a prompt can run is a function that it is given. Knows neither HTTP nor
engines.
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
from foreword.serve.log import write
from foreword.serve.names import TABLE_RETRY_SECONDS, Changes, ModelNames, TableAwayError, UnknownModelError, Version
from foreword.table import Current

POLL_SECONDS = 1.0
"""Between two looks at the table: how long an alias that has moved stands for its old version."""


class PromptRefusedError(ForewordError):
    """A version exists and is not served here. Its reason may name files of this machine, and is not told to all."""

    def __init__(self, key: str) -> None:
        super().__init__(f"prompt {key!r} is not served here; GET /admin/prompts tells an administrator why")


class Table(Protocol):
    """What is needed of a PromptTable."""

    def current(self) -> list[Current]:
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
    strategy: bool = False
    """Whether it stands for a chain or a function: the prompt tells its inputs and output, and no model reads it."""


class PromptMemory:
    """Prompts in memory, up to `max_bytes`; the one used longest ago goes first, and what is pinned stays.

    `dropped` hears of versions that have left.
    """

    def __init__(self, max_bytes: int, dropped: Callable[[str], None]) -> None:
        self._max_bytes, self._dropped = max_bytes, dropped
        self._prompts: OrderedDict[Version, Prompt] = OrderedDict()
        self._bytes = 0
        self._full = False
        self.pinned: set[Version] = set()

    def __contains__(self, version: object) -> bool:
        return version in self._prompts

    @property
    def versions(self) -> set[Version]:
        """All that are in memory."""
        return set(self._prompts)

    @property
    def full(self) -> bool:
        """Whether what nobody has asked for must not be loaded any more: something has had to leave, or would."""
        return self._full or self._bytes >= self._max_bytes

    def get(self, version: Version) -> Prompt | None:
        """The prompt, where it is in memory."""
        return self._prompts.get(version)

    def used(self, version: Version) -> None:
        """Let a version leave after all others."""
        if version in self._prompts:
            self._prompts.move_to_end(version)

    def keep(self, version: Version, prompt: Prompt) -> None:
        """Hold a prompt, in the room of others where there is none left."""
        old = self._prompts.get(version)
        self._bytes += prompt.nbytes - (old.nbytes if old is not None else 0)
        self._prompts[version] = prompt
        self.make_room(version)

    def make_room(self, newest: Version | None = None) -> None:
        """Drop what is not pinned, `newest` excepted, until the rest fits."""
        if self._bytes <= self._max_bytes:
            return
        for version in [one for one in self._prompts if one not in self.pinned and one != newest]:
            self.forget(version)
            self._full = True
            if self._bytes <= self._max_bytes:
                return

    def forget(self, version: Version) -> None:
        """Drop a version, where it is in memory."""
        if (prompt := self._prompts.pop(version, None)) is not None:
            self._bytes -= prompt.nbytes
            self._full = False
            self._dropped(str(version))


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
        self._table, self._check, self._fingerprint, self._dropped = table, check, fingerprint, dropped
        self._threads = ThreadPoolExecutor(2, "prompts")
        self._names = ModelNames(lambda: self._table.current(), self._threads, self._changed)
        self._memory = PromptMemory(max_bytes, dropped)
        self._loading: dict[Version, asyncio.Task[Prompt]] = {}
        self._refused: dict[Version, tuple[float, str]] = {}
        """When a version was refused, and why."""
        self._unloaded: set[Version] = set()
        """Versions that an administrator has taken out of service."""

    @property
    def problem(self) -> str | None:
        """What is wrong with the table; None: nothing."""
        return self._names.problem

    async def look(self) -> bool:
        """Read what names stand for; whether anything has changed. Raises TableAwayError."""
        return await self._names.look()

    def _changed(self, changes: Changes) -> None:
        for version in changes.replaced:
            self._memory.forget(version)
            self._refused.pop(version, None)
        for version in changes.gone:
            self._dropped(str(version))

    async def warm(self) -> None:
        """Bring into memory what names and aliases stand for, as far as there is room."""
        for version in list(self._names.current):
            if self._memory.full:
                return
            if version not in self._memory and self.reason(version) is None:
                try:
                    await self._load(version)
                except ForewordError:
                    continue  # is remembered, and told to whoever asks for it

    async def get(self, model: str) -> Served:
        """The version that `name`, `name@alias` or `name:3` stands for now.

        Raises UnknownModelError, PromptRefusedError or TableAwayError.
        """
        version = await self._names.resolve(model, self._memory)
        if self.reason(version) is not None:
            raise PromptRefusedError(str(version))
        prompt = self._memory.get(version)
        if prompt is None:
            prompt = await self._load(version)
        elif version not in self._names.current and self.problem is None:  # looks do not tell whether it is deleted
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    prompt = await self._load(version)
            except (TimeoutError, TableAwayError):  # the table says nothing, or nothing yet
                pass
        self._memory.used(version)
        return Served(str(version), prompt)

    def reason(self, version: Version) -> str | None:
        """Why a version is not served; None where it is, as far as is known yet."""
        if version in self._unloaded:
            return "unloaded"
        at, problem = self._refused.get(version, (0.0, ""))
        if problem and time.monotonic() - at < TABLE_RETRY_SECONDS:
            return problem
        head = self._names.current.get(version)
        if head is not None and head.virtual_tokens and head.fingerprint != self._fingerprint:
            return "tuned on another backbone" if head.fingerprint else "not tuned yet: it has no vectors"
        return None

    def names(self) -> list[tuple[str, Current]]:
        """All models that prompts give: `name`, `name@alias`, `name:3`, each with what it stands for."""
        models = []
        for version, head in self._names.current.items():
            if self.reason(version) is None:
                models += [(head.name, head)] if head.newest else []
                models += [*((f"{head.name}@{alias}", head) for alias in head.aliases), (head.ref, head)]
        return models

    def state(self) -> list[dict[str, object]]:
        """Every version that is known, for administrators."""
        known = self._names.current.keys() | self._memory.versions
        return [self._state(version) for version in sorted(known)]

    def _state(self, version: Version) -> dict[str, object]:
        head, prompt = self._names.current.get(version), self._memory.get(version)
        known = head or prompt
        tokens = known.virtual_tokens if known is not None else 0
        return {
            "prompt": str(version),
            "newest": head is not None and head.newest,
            "aliases": list(head.aliases) if head is not None else [],
            "virtual_tokens": tokens,
            "loaded": prompt is not None,
            "pinned": version in self._memory.pinned,
            "refused": self.reason(version),
        }

    async def load(self, model: str) -> Served:
        """Bring a version into memory, and back into service; read anew even where it was refused before."""
        return await self._restore(await self._names.resolve(model, self._memory))

    async def pin(self, model: str) -> Served:
        """Load a version and keep it in memory, whatever else is served."""
        version = await self._names.resolve(model, self._memory)
        served = await self._restore(version)
        self._memory.pinned.add(version)
        return served

    async def unpin(self, model: str) -> str:
        """Let a version leave the memory when there is need."""
        version = await self._names.resolve(model, self._memory)
        self._memory.pinned.discard(version)
        self._memory.make_room()
        return str(version)

    async def unload(self, model: str) -> str:
        """Take a version out of memory and of service; requests under way finish on it."""
        version = await self._names.resolve(model, self._memory)
        self._memory.pinned.discard(version)
        self._unloaded.add(version)
        self._memory.forget(version)
        return str(version)

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _restore(self, version: Version) -> Served:
        self._unloaded.discard(version)
        self._refused.pop(version, None)
        return await self.get(str(version))

    async def _load(self, version: Version) -> Prompt:
        task = self._loading.get(version)
        if task is None:  # else another request waits for it already
            task = self._loading[version] = asyncio.create_task(self._read(version))
            task.add_done_callback(lambda done: self._read_done(version, done))
        return await asyncio.shield(task)

    def _read_done(self, version: Version, task: asyncio.Task[Prompt]) -> None:
        self._loading.pop(version, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have waited to the end

    async def _read(self, version: Version) -> Prompt:
        loaded = self._memory.get(version)

        def read() -> Prompt:
            prompt = self._table.get(str(version))
            if prompt is not loaded:
                self._check(prompt)
            return prompt

        try:
            prompt = await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except UsageError as error:
            self._memory.forget(version)
            raise UnknownModelError(str(error)) from None
        except Exception as error:
            if _is_away(error):
                raise TableAwayError() from None
            problem = str(error) if isinstance(error, ForewordError) else f"reading it gives {type(error).__name__}"
            self._memory.forget(version)
            self._refused[version] = (time.monotonic(), problem)
            write("prompt refused", logging.WARNING, prompt=str(version), problem=problem)
            raise PromptRefusedError(str(version)) from None
        self._refused.pop(version, None)
        if version not in self._unloaded:  # it may have been unloaded meanwhile
            self._memory.keep(version, prompt)
        return prompt


def _is_away(error: Exception) -> bool:
    """Whether the table failed, and not the prompt."""
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error.__cause__, SQLAlchemyError)
