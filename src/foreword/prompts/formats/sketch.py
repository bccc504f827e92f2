"""A template as a handful of nodes that most template languages share. Knows Foreword's own; knows no other format.

What other languages cannot say (filters, comparisons, sums) has no node: `from_body` names it with its line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jinja2 import nodes as jinja

from foreword.errors import ForewordError
from foreword.prompts.few_shot import escape
from foreword.prompts.prompt import Prompt
from foreword.prompts.template import ROLES, new_environment

MAX_DEPTH = 16
"""Blocks inside blocks. The template language itself takes fewer loops."""
WORDS = ("true", "True", "false", "False", "none", "None", "not", "and", "or", "in", "is", "if", "else")
"""What Jinja does not take for a variable."""


@dataclass(frozen=True)
class Var:
    """`a.b`: a value that is filled in; `json` writes it as JSON."""

    path: tuple[str, ...]
    json: bool = False


@dataclass(frozen=True)
class Mark:
    """A chat turn begins here."""

    role: str


@dataclass(frozen=True)
class Each:
    """A loop; inside, the item is called `item`."""

    path: tuple[str, ...]
    item: str
    body: "tuple[Node, ...]"
    otherwise: "tuple[Node, ...]" = ()


@dataclass(frozen=True)
class If:
    """A condition on one value being there and not empty."""

    path: tuple[str, ...]
    then: "tuple[Node, ...]"
    otherwise: "tuple[Node, ...]" = ()


Node = str | Var | Mark | Each | If


def from_body(prompt: Prompt, language: str) -> tuple[Node, ...]:
    """The nodes of a prompt's template. Raises ForewordError that names the line and what `language` cannot say."""

    def refuse(node: jinja.Node, what: str) -> ForewordError:
        return ForewordError(f"prompt {prompt.name!r}, line {node.lineno}: {what} cannot be written in {language}")

    def path(node: jinja.Node) -> tuple[str, ...]:
        match node:
            case jinja.Name():
                return (node.name,)
            case jinja.Getattr():
                return (*path(node.node), node.attr)
            case jinja.Getitem(arg=jinja.Const(value=str(key))) if key.isidentifier():
                return (*path(node.node), key)
        raise refuse(node, f"the expression {type(node).__name__.lower()!r}")

    def expression(node: jinja.Node) -> Node:
        match node:
            case jinja.TemplateData():
                return node.data
            case jinja.Const(value=str(text)):
                return text
            case jinja.Call(node=jinja.Name(name=name)) if name in ROLES:
                return Mark(name)
            case jinja.Call():
                raise refuse(node, "virtual tokens")
            case jinja.Filter(name="tojson", node=inner) if inner is not None and not node.args:
                return Var(path(inner), json=True)
            case jinja.Filter():
                raise refuse(node, f"the filter {node.name!r}")
        return Var(path(node))

    def condition(node: jinja.If) -> Node:
        otherwise = walk(node.else_)
        for other in reversed(node.elif_):
            otherwise = (choice(other, otherwise),)
        return choice(node, otherwise)

    def choice(node: jinja.If, otherwise: tuple[Node, ...]) -> Node:
        then = walk(node.body)
        if isinstance(node.test, jinja.Not):
            return If(path(node.test.node), otherwise, then)
        return If(path(node.test), then, otherwise)

    def walk(body: Sequence[jinja.Node]) -> tuple[Node, ...]:
        found: list[Node] = []
        for node in body:
            match node:
                case jinja.Output():
                    found += map(expression, node.nodes)
                case jinja.For(target=jinja.Name(name=item), test=None):
                    found.append(Each(path(node.iter), item, walk(node.body), walk(node.else_)))
                case jinja.If():
                    found.append(condition(node))
                case _:
                    raise refuse(node, f"{type(node).__name__.lower()!r}")
        return joined(found)

    return walk(new_environment().parse(prompt.body).body)


def joined(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The same with neighbouring texts put together and empty ones left out."""
    found: list[Node] = []
    for node in nodes:
        if isinstance(node, str) and found and isinstance(found[-1], str):
            found[-1] += node
        elif node != "":
            found.append(node)
    return tuple(found)


def turns(nodes: Sequence[Node], name: str, language: str) -> list[tuple[str | None, tuple[Node, ...]]]:
    """Role and content of each turn; one with the role None where there are no turns.

    Line ends around a content are left out: the backbone does not read them either. Raises ForewordError where a turn
    begins inside a loop or a condition, which a list of messages cannot hold.
    """
    if any(isinstance(node, Mark) for node in inner(nodes)):
        raise ForewordError(
            f"prompt {name!r}: a turn inside a loop or a condition cannot be written in {language}; write the turns out"
        )
    found: list[tuple[str | None, list[Node]]] = [(None, [])]
    for node in nodes:
        if isinstance(node, Mark):
            found.append((node.role, []))
        else:
            found[-1][1].append(node)
    head, *rest = [(role, joined(content)) for role, content in found]
    if not rest:
        return [head]
    if head[1] and not (len(head[1]) == 1 and isinstance(head[1][0], str) and not head[1][0].strip()):
        raise ForewordError(f"prompt {name!r}: text stands before the first turn; put it into one")
    return [(role, _trimmed(content)) for role, content in rest]


def _trimmed(content: tuple[Node, ...]) -> tuple[Node, ...]:
    trimmed = list(content)
    if trimmed and isinstance(trimmed[0], str):
        trimmed[0] = trimmed[0].lstrip("\n")
    if trimmed and isinstance(trimmed[-1], str):
        trimmed[-1] = trimmed[-1].rstrip("\n")
    return joined(trimmed)


def inner(nodes: Sequence[Node]) -> Iterator[Node]:
    """All nodes that stand inside a loop or a condition."""
    for node in nodes:
        match node:
            case Each(body=body, otherwise=otherwise) | If(then=body, otherwise=otherwise):
                for part in (body, otherwise):
                    yield from part
                    yield from inner(part)


def plain(nodes: Sequence[Node], name: str, language: str) -> list[str | Var]:
    """Texts and simple variables. Raises ForewordError where there is more."""
    found: list[str | Var] = []
    for node in nodes:
        match node:
            case str() | Var(path=(_,), json=False):
                found.append(node)
            case Var():
                what = "JSON" if node.json else "a value inside a value"
                raise ForewordError(
                    f"prompt {name!r}: {what} ({'.'.join(node.path)!r}) cannot be written in {language}"
                )
            case _:
                what = "a loop" if isinstance(node, Each) else "a condition" if isinstance(node, If) else "a turn"
                raise ForewordError(f"prompt {name!r}: {what} cannot be written in {language}; write it out")
    return found


@dataclass
class Body:
    """Writes a body of Foreword's own, so that its rules for white space around blocks change nothing."""

    _parts: list[str] = field(default_factory=list)
    _open: bool = False
    """Whether a block has just ended, which takes a line end behind it away."""

    def literal(self, text: str) -> None:
        """Text as the model shall read it."""
        self.source(escape(text.replace("\r\n", "\n")))

    def source(self, text: str) -> None:
        """Text that is written as it is."""
        if not text:
            return
        if self._open and text.startswith("\n"):
            self._parts[-1] = f"{self._parts[-1][:-3]} +%}}"
        self._parts.append(text)
        self._open = False

    def expression(self, inner: str) -> None:
        self.source(f"{{{{ {inner} }}}}")

    def block(self, inner: str) -> None:
        line = "".join(self._parts[-2:]).rpartition("\n")[2]
        keep = "+" if self._parts and line and not line.strip(" \t") and not self._open else ""
        self._parts.append(f"{{%{keep} {inner} %}}")
        self._open = True

    def __str__(self) -> str:
        text = "".join(self._parts)
        return text + "\n" if text.endswith("\n") else text  # Jinja takes one away


def to_body(nodes: Sequence[Node]) -> str:
    """The template of Foreword's own that these nodes stand for."""
    body = Body()

    def write(part: Sequence[Node]) -> None:
        for node in part:
            match node:
                case str():
                    body.literal(node)
                case Var(path=path, json=json):
                    if path[0] in WORDS:
                        raise ForewordError(f"a variable cannot be called {path[0]!r}: that means something else here")
                    body.expression(".".join(path) + (" | tojson" if json else ""))
                case Mark(role):
                    body.expression(f"{role}()")
                case Each(path=path, item=item):
                    body.block(f"for {item} in {'.'.join(path)}")
                    write(node.body)
                    end(node.otherwise, "endfor")
                case If(path=path, then=(), otherwise=otherwise):
                    body.block(f"if not {'.'.join(path)}")
                    write(otherwise)
                    body.block("endif")
                case If(path=path):
                    body.block(f"if {'.'.join(path)}")
                    write(node.then)
                    end(node.otherwise, "endif")

    def end(otherwise: Sequence[Node], word: str) -> None:
        if otherwise:
            body.block("else")
            write(otherwise)
        body.block(word)

    write(joined(nodes))
    return str(body)
