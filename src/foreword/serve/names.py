"""What the models that requests name stand for now: names, aliases and versions of the prompt table.

Knows references and looks at the table; knows no prompts, no memory and no HTTP.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from concurrent.futures import Executor
from typing import NamedTuple

from foreword.errors import ForewordError, UsageError
from foreword.table import LATEST, Current, Ref, parse_ref

LOOK_SECONDS = 0.2
"""The least time between two looks at the table that unknown names cause."""
TABLE_RETRY_SECONDS = 10.0
"""After which a table that was away, or a prompt that was refused, is worth another try."""
RETRY_LOOK_SECONDS = 5.0
"""The same for whoever asks for nothing but a look at the table."""


class UnknownModelError(ForewordError):
    """There is no model of this name."""


class TableAwayError(ForewordError):
    """The prompt table cannot be read at the moment; what is in memory is served on."""

    def __init__(
        self,
        message: str = "this prompt is not in memory, and the prompt table cannot be reached",
        retry_after: float = TABLE_RETRY_SECONDS,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which the table may be back."""


class Version(NamedTuple):
    """A concrete version of a prompt; `str` gives its key, `name:3`."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}:{self.number}"


class Changes(NamedTuple):
    """What a look at the table has shown to be different."""

    replaced: Collection[Version]
    """Versions that hold another prompt than before: another table has taken this one's place."""
    gone: Collection[Version]
    """Versions that no name stands for any more."""


class ModelNames:
    """What every name and alias stands for, as the last look at the table has shown it.

    `current` reads that from the table, in one of `threads`; `changed` hears of what has become different.
    """

    def __init__(
        self, current: Callable[[], Iterable[Current]], threads: Executor, changed: Callable[[Changes], None]
    ) -> None:
        self._read_current, self._threads, self._changed = current, threads, changed
        self.current: Mapping[Version, Current] = {}
        """The versions that names and aliases stand for."""
        self.problem: str | None = None
        """What is wrong with the table; None: nothing."""
        self._stands: dict[tuple[str, str], int] = {}
        self._looked = -LOOK_SECONDS
        """When the last look that has ended began."""
        self._asking = asyncio.Lock()

    async def look(self) -> bool:
        """Read what names stand for; whether anything has changed. Raises TableAwayError."""
        began = time.monotonic()
        try:
            current = list(await asyncio.get_running_loop().run_in_executor(self._threads, self._read_current))
            self.problem = None
        except Exception as error:  # a damaged database can raise anything; what is in memory is served on
            self.problem = str(error) if isinstance(error, ForewordError) else f"it gives {type(error).__name__}"
            raise TableAwayError(self.problem, RETRY_LOOK_SECONDS) from error
        finally:
            self._looked = max(self._looked, began)
        old, new = self.current, {Version(head.name, head.version): head for head in current}
        if new == old:
            return False
        replaced = [version for version in old.keys() & new.keys() if old[version].digest != new[version].digest]
        self._changed(Changes(replaced, old.keys() - new.keys()))
        stands = {(head.name, alias): head.version for head in current for alias in head.aliases}
        self.current, self._stands = new, stands | {(h.name, LATEST): h.version for h in current if h.newest}
        return True

    async def resolve(self, model: str, loaded: Container[Version]) -> Version:
        """The version that `name`, `name@alias` or `name:3` stands for now.

        A version that is `loaded` is known to exist; for a name that may be new, the table is looked at once more.
        Raises UnknownModelError, or TableAwayError.
        """
        try:
            ref = parse_ref(model)
        except UsageError as error:
            raise UnknownModelError(f"there is no model {model!r:.200}: {error!s:.300}") from None
        if ref.version is not None:
            version = Version(ref.name, ref.version)
            if version in self.current or version in loaded:
                return version
        number = self._number(ref)
        if number is None:  # it may be new
            await self._look_once()
            number = self._number(ref)
        if number is None:
            raise UnknownModelError(f"there is no model {model!r}; GET /v1/models tells which there are")
        return Version(ref.name, number)

    async def _look_once(self) -> None:
        """One look for all that ask for unknown names at the same time, and not too many of them."""
        asked = time.monotonic()
        async with self._asking:
            if self._looked >= asked:
                if self.problem is not None:
                    raise TableAwayError()
                return
            await asyncio.sleep(max(0.0, self._looked + LOOK_SECONDS - asked))
            try:
                await self.look()
            except TableAwayError:
                raise TableAwayError() from None

    def _number(self, ref: Ref) -> int | None:
        newest = self._stands.get((ref.name, LATEST))
        if ref.version is not None:  # an older one, which no name stands for, is known once it is read
            return ref.version if newest is not None and ref.version <= newest else None
        return newest if ref.alias is None else self._stands.get((ref.name, ref.alias))
