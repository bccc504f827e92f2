"""Named things that other packages can add to by entry point: methods, metrics, formats, strategies, engines."""

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from foreword.errors import ForewordError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What is built in, by name, and what installed packages add in an entry point group such as `foreword.methods`.

    A package is imported when one of its names is asked for, so that a broken one harms nobody else. Nothing that is
    built in can be replaced.
    """

    def __init__(self, group: str, built_in: Mapping[str, T], fits: Callable[[Any], bool]) -> None:
        """`fits` tells whether what a package gives is of the right kind."""
        self.group, self._built_in, self._fits = group, dict(built_in), fits
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """Raises KeyError where nobody has that name, ForewordError where a package's own cannot be used."""
        if name in self._built_in:
            return self._built_in[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(self._points[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        """Whether somebody has that name; imports nothing."""
        return name in self._built_in or name in self._points

    def __iter__(self) -> Iterator[str]:
        yield from self._built_in
        yield from self._points

    def __len__(self) -> int:
        return len(self._built_in) + len(self._points)

    @cached_property
    def _points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """By name, what packages add under it: more than one where they do not know of each other."""
        points: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            if point.name not in self._built_in:
                points.setdefault(point.name, []).append(point)
        return points

    def _load(self, points: list[importlib.metadata.EntryPoint]) -> T:
        point = points[0]
        package = _package(point)
        if others := sorted({_package(other) for other in points} - {package}):
            raise ForewordError(
                f"{self.group} {point.name!r} is added by two packages, {package!r} and {others[0]!r}; remove one"
            )
        try:
            made: T = point.load()
        except Exception as error:  # somebody else's code
            raise ForewordError(
                f"{self.group} {point.name!r} of the package {package!r} cannot be loaded: {error}; mend or remove it"
            ) from error
        if not self._fits(made):
            raise ForewordError(
                f"{self.group} {point.name!r} of the package {package!r} is of type {type(made).__name__!r}, which "
                "does not fit; CONTRIBUTING.md says what it must be"
            )
        return made


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
