"""What rendering a template may cost. Knows Jinja's tree; knows no prompts and no markers.

A small template can still ask for much work: loops over long texts inside loops, sums of long texts, filters on all of
it. So each value that is read from a variable or made by a filter is charged by its size, and each turn of a loop by
the size of its body. Between two charges nothing grows by more than a small constant factor.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from foreword.errors import ForewordError

MAX_WORK = 2_000_000
"""In units of 0.1 to 0.5 µs."""
READ_COST, ITEM_COST, CHARACTERS = 10, 4, 4
"""For each read; for each text, number or other item in what is read; and how many characters cost one more."""

READ, STEPS = "_read", "_steps"
"""What the meter is called in a compiled template. A template's own names cannot begin with an underscore."""


class Work:
    """The meter of one rendering. `functions` go into the template's context."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._left = MAX_WORK

    @property
    def functions(self) -> dict[str, Any]:
        return {READ: self._read, STEPS: self._steps}

    def _pay(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise ForewordError(
                f"prompt {self._name!r} takes too much work to render; give it shorter inputs or simpler loops"
            )

    def _charge(self, value: object) -> None:
        self._pay(ITEM_COST + (len(value) // CHARACTERS if isinstance(value, str) else 0))
        if isinstance(value, list | tuple):
            texts = 0  # most items are texts: one payment for all of them, or the meter is what takes long
            for item in value:
                if isinstance(item, str):
                    texts += ITEM_COST + len(item) // CHARACTERS
                else:
                    self._charge(item)
            self._pay(texts)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self._charge(key)
                self._charge(item)

    def _read(self, value: object) -> object:
        self._pay(READ_COST)
        self._charge(value)
        return value

    def _steps(self, items: Iterable[object], weight: int) -> Iterator[object]:
        for item in items:
            self._pay(weight)
            yield item


def metered(tree: nodes.Template) -> nodes.Template:
    """Puts the meter into a checked template, in place."""
    _Meter().visit(tree)
    return tree


class _Meter(NodeTransformer):
    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        match node:
            case nodes.Call():  # a role or virtual(n)
                return node
            case nodes.Name(ctx="load") | nodes.Getattr() | nodes.Getitem():
                return _call(READ, self._path(node), node.lineno)
            case nodes.For():
                weight = sum(_weight(part) for part in node.find_all(nodes.Node))
                self.generic_visit(node)
                node.iter = _call(STEPS, node.iter, node.lineno, nodes.Const(weight))
                return node
            case nodes.Filter():
                return _call(READ, self.generic_visit(node), node.lineno)
        return self.generic_visit(node, *args, **kwargs)

    def _path(self, node: nodes.Node) -> Any:
        """`a.b[c]` is charged once, for what it leads to, and for `c`."""
        match node:
            case nodes.Name():
                return node
            case nodes.Getattr():
                node.node = self._path(node.node)
                return node
            case nodes.Getitem():
                node.node, node.arg = self._path(node.node), self.visit(node.arg)
                return node
        return self.visit(node)


def _weight(node: nodes.Node) -> int:
    return 1 + len(node.value) if isinstance(node, nodes.Const) and isinstance(node.value, str) else 1


def _call(function: str, value: nodes.Node, line: int, *more: nodes.Expr) -> nodes.Call:
    call = nodes.Call(nodes.Name(function, "load"), [cast(nodes.Expr, value), *more], [], None, None)
    call.set_lineno(line)
    return call
