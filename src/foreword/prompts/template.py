"""The template language: Jinja, cut down by an allow-list until it cannot do harm. Knows no files and no models.

Templates come from strangers, so they are safe by construction: only the nodes, filters and functions named here
compile. Nothing in them can assign, multiply text, call a method or reach an attribute of an object, and what a
rendering may cost is metered (`work`). Jinja's own sandbox stands behind that.
"""

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2 import Template as CompiledTemplate
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from foreword.errors import ForewordError
from foreword.prompts.pieces import Marks, Piece, Turn, Virtual
from foreword.prompts.work import Work, metered

MAX_TEMPLATE = 200_000
"""Characters in a template."""
MAX_OUTPUT = 1_000_000
"""Characters in a rendered prompt."""
MAX_LOOPS = 2
"""Loops inside loops."""
MAX_DEPTH = 64
"""Nodes inside nodes: deeper templates would exhaust the compiler."""
MAX_TOKENS = 20_000
"""Of the template language, in all: compiling takes some 50 µs for each."""
MAX_BRANCHES = 64
"""Of one condition: Python's compiler nests them."""
MAX_VIRTUAL = 4_096
"""Virtual tokens in a prompt."""
MAX_INCLUDES = 20
"""Different partials of one prompt."""
MAX_INCLUDE_DEPTH = 5
"""Includes inside includes."""

MAX_SEPARATOR = 20
"""Characters between the items of a `join`."""
MAX_DIGITS = 15
"""Digits that `round` keeps."""

FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError, AssertionError)
"""What a template raises on values that do not suit it; the last one is what `truncate(2)` says."""

ROLES = ("system", "user", "assistant")
RESERVED_NAMES = ("virtual", *ROLES, "self")
LOOP = ("first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0")
FILTERS = (
    "capitalize", "default", "first", "float", "int", "join", "last", "length", "list", "lower", "reverse", "round",
    "sort", "string", "title", "tojson", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
TESTS = (
    "defined", "divisibleby", "eq", "even", "false", "ge", "gt", "in", "le", "lt", "mapping", "ne", "none", "number",
    "odd", "sequence", "string", "true",
)  # fmt: skip
NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Getattr,
    nodes.Getitem, nodes.If, nodes.For, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.CondExpr, nodes.Call, nodes.Add, nodes.Sub, nodes.Neg, nodes.Keyword,
)  # fmt: skip


class Template:
    """A checked template.

    `variables` are the names that it takes, in alphabetical order; `places` holds the number of virtual tokens at
    each place, in reading order. `partials` holds the template for each reference that it includes. Raises
    ForewordError that names `name`, the line and what is not allowed.
    """

    def __init__(self, source: str, name: str, partials: "Mapping[str, Template] | None" = None) -> None:
        self.name = name
        self.source = source
        self.partials = partials or {}
        if odd := re.search("[\0\ud800-\udfff]", source):
            raise ForewordError(f"prompt {name!r}: {odd[0]!r} at character {odd.start():,} is no text; remove it")
        self.tokens = self.characters = self.depth = 0
        """With those of its partials: words of the template language, characters, includes inside includes."""
        self._environment = new_environment()
        try:
            inside = self._measure()
            tree = self._parse(self._environment)
            self.places = _check(tree, name)
            self.variables = tuple(sorted(find_undeclared_variables(tree) - {*RESERVED_NAMES}))
            self._tree = metered(tree)
        except TemplateSyntaxError as error:
            raise ForewordError(f"prompt {name!r}, line {error.lineno}: {error.message}; mend the template") from error
        except (RecursionError, MemoryError):
            raise ForewordError(f"prompt {name!r}: the template is nested too deeply; flatten it") from None
        except ValueError as error:  # from Jinja's lexer, for a number of thousands of digits
            raise ForewordError(f"prompt {name!r}: {error}; mend the template") from error
        self.depth = 1 + max((partial.depth for partial in inside), default=-1)
        if self.depth > MAX_INCLUDE_DEPTH:
            raise ForewordError(f"prompt {name!r} includes more than {MAX_INCLUDE_DEPTH} deep; flatten it")

    def _measure(self) -> "list[Template]":
        """The partial at each include; refuses what is too large with them, before any of it is read twice."""
        if len(self.source) > MAX_TEMPLATE:
            raise ForewordError(
                f"prompt {self.name!r} has {len(self.source):,} characters, {MAX_TEMPLATE:,} at most; cut it"
            )
        self.tokens = sum(1 for _ in itertools.islice(self._environment.lex(self.source), MAX_TOKENS + 1))
        inside = [
            self.partials[ref] for ref, _ in includes(self._environment, self.source) if ref and ref in self.partials
        ]
        self.tokens += sum(partial.tokens for partial in inside)
        self.characters = len(self.source) + sum(partial.characters for partial in inside)
        whole = " with what it includes" if inside else ""
        if self.characters > MAX_TEMPLATE:
            raise ForewordError(
                f"prompt {self.name!r} has {self.characters:,} characters{whole}, {MAX_TEMPLATE:,} at most; cut it"
            )
        if self.tokens > MAX_TOKENS:
            raise ForewordError(
                f"prompt {self.name!r} has more than {MAX_TOKENS:,} variables, texts and signs{whole}; shorten it"
            )
        return inside

    def _parse(self, environment: "_Environment") -> nodes.Template:
        """The tree with what is included in its place."""
        tree = environment.parse(self.source)
        line_ends = [ends for _, ends in includes(environment, self.source)]
        _Includer(self, environment, line_ends).visit(tree)
        return tree

    @cached_property
    def _compiled(self) -> CompiledTemplate:
        """Made when it is first needed: most prompts of a table are looked at without being run."""
        try:
            return self._environment.from_string(self._tree)
        except (RecursionError, MemoryError, SyntaxError):  # from Python's compiler, which has limits of its own
            raise ForewordError(f"prompt {self.name!r}: the template is nested too deeply; flatten it") from None

    def render(self, inputs: Mapping[str, object]) -> tuple[Piece, ...]:
        """Fill in `inputs` (exactly `variables`) and return the pieces in order. Inputs can never turn into markers."""
        marks = Marks()
        start = itertools.accumulate(self.places, initial=0)
        functions: dict[str, Any] = {role: (lambda role=role: marks.mark(Turn(role))) for role in ROLES}
        functions["virtual"] = lambda count: marks.mark(Virtual(next(start), count))
        parts: list[str] = []
        size = 0
        try:
            for part in self._compiled.generate({**functions, **Work(self.name).functions, **inputs}):
                parts.append(part)
                size += len(part)
                if size > MAX_OUTPUT:
                    raise ForewordError(
                        f"prompt {self.name!r} renders to more than {MAX_OUTPUT:,} characters; give it shorter inputs"
                    )
        except FAILURES as error:
            raise ForewordError(f"prompt {self.name!r} cannot be rendered: {error}") from error
        return tuple(marks.pieces("".join(parts)))


def included(source: str, name: str) -> tuple[str, ...]:
    """The references that a template includes, each once, in reading order. Raises ForewordError like `Template`."""
    if len(source) > MAX_TEMPLATE:
        return ()  # `Template` tells
    try:
        return tuple(dict.fromkeys(ref for ref, _ in includes(new_environment(), source) if ref is not None))
    except TemplateError as error:
        raise ForewordError(f"prompt {name!r}: {error}; mend the template") from error
    except ValueError as error:
        raise ForewordError(f"prompt {name!r}: {error}; mend the template") from error


def includes(environment: "_Environment", source: str) -> Iterator[tuple[str | None, bool]]:
    """Each include's reference, None where it is no text, and whether a line ends behind it, in reading order."""
    if "include" not in source:
        return
    tokens = itertools.islice(environment.lex(source), MAX_TOKENS)
    words = ((kind, text) for _, kind, text in tokens if kind != "whitespace")
    for kind, _ in words:
        if kind == "block_begin" and next(words, None) == ("name", "include"):
            kind, text = next(words, ("", ""))
            ref = text[1:-1] if kind == "string" else None
            end = text if kind == "block_end" else next((text for kind, text in words if kind == "block_end"), "")
            yield ref, end.endswith("\n") and not end.startswith("-")


class _Includer(NodeTransformer):
    """Puts partials in the place of their includes. A line end behind one stays, as it does behind a variable."""

    def __init__(self, template: Template, environment: "_Environment", line_ends: list[bool]) -> None:
        self._template = template
        self._environment = environment
        self._line_ends = iter(line_ends)

    def visit_Include(self, node: nodes.Include) -> list[nodes.Node]:  # noqa: N802 - as NodeVisitor calls it
        name, partials = self._template.name, self._template.partials
        ref = node.template.value if isinstance(node.template, nodes.Const) else None
        ends_line = next(self._line_ends)
        if not isinstance(ref, str) or not node.with_context or node.ignore_missing:
            raise ForewordError(
                f"prompt {name!r}, line {node.lineno}: an include names one stored prompt in quotes and nothing else: "
                '{% include "name@alias" %}'
            )
        if ref not in partials:
            raise ForewordError(
                f"prompt {name!r}, line {node.lineno}: there is no partial {ref!r}; includes come from a prompt table"
            )
        inside: list[nodes.Node] = list(partials[ref]._parse(self._environment).body)
        if ends_line:
            inside.append(nodes.Output([nodes.TemplateData("\n")], lineno=node.lineno))
        for part in inside:  # a line of this template means more to its author than one of another
            part.set_lineno(node.lineno, override=True)
            part.set_environment(self._environment)
        return inside


class _Environment(ImmutableSandboxedEnvironment):
    """`a.b` and `a["b"]` both look up an item; the only attributes are the counters of `loop`."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and attribute in LOOP:
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except (LookupError, TypeError):
            return self.undefined(obj=obj, name=argument)


def _to_json(value: object) -> str:
    """Jinja's own writes for HTML: it hides quotes and everything beyond ASCII from the model."""
    return json.dumps(value, ensure_ascii=False)


@lru_cache(1)
def new_environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS} | {"tojson": _to_json}
    environment.tests = {name: environment.tests[name] for name in TESTS}
    return environment


def _check(tree: nodes.Template, name: str) -> tuple[int, ...]:
    """Refuse whatever is not on the allow-list; return the number of virtual tokens at each place."""
    places: list[int] = []

    def refuse(node: nodes.Node, what: str) -> NoReturn:
        raise ForewordError(f"prompt {name!r}, line {node.lineno}: {what}")

    def call(node: nodes.Call, parent: nodes.Node, *, top: bool) -> None:
        function = node.node.name if isinstance(node.node, nodes.Name) else None
        if function not in ROLES and function != "virtual":
            near = difflib.get_close_matches(str(function), ["virtual", *ROLES], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; only virtual(n), system(), user(), assistant() exist"
            refuse(node, f"a template cannot call {function or 'a method'!r}{hint}")
        if node.kwargs or node.dyn_args or node.dyn_kwargs or (function in ROLES and node.args):
            refuse(node, f"{function}({'n' if function == 'virtual' else ''}) takes nothing else")
        if not isinstance(parent, nodes.Output):  # a filter or a comparison would see its marker
            refuse(node, f"{function}() must stand in the text itself, not in an expression")
        if function == "virtual":
            virtual(node, top=top)

    def virtual(node: nodes.Call, *, top: bool) -> None:
        if not top:
            refuse(node, "virtual(n) must stand in the text itself, outside of loops and conditions")
        number = node.args[0].value if len(node.args) == 1 and isinstance(node.args[0], nodes.Const) else None
        if type(number) is not int or number < 1:
            refuse(node, "virtual(n) takes one whole number of at least 1")
        places.append(number)
        if sum(places) > MAX_VIRTUAL:
            refuse(node, f"more than {MAX_VIRTUAL:,} virtual tokens")

    def apply(node: nodes.Filter) -> None:
        if node.name not in FILTERS:
            near = difflib.get_close_matches(node.name, FILTERS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(FILTERS)}"
            refuse(node, f"no filter {node.name!r}; {hint}")
        if node.name == "default":
            return
        for argument in [*node.args, *(keyword.value for keyword in node.kwargs), node.dyn_args, node.dyn_kwargs]:
            if argument is not None and not isinstance(argument, nodes.Const):
                refuse(node, f"the filter {node.name!r} takes constants only")
            value = argument.value if argument is not None else None
            if node.name == "join" and isinstance(value, str) and len(value) > MAX_SEPARATOR:
                refuse(node, f"'join' takes a separator of {MAX_SEPARATOR} characters at most")
            if node.name == "round" and isinstance(value, int | float) and value > MAX_DIGITS:
                refuse(node, f"'round' takes {MAX_DIGITS} digits at most")

    def walk(node: nodes.Node, parent: nodes.Node, *, top: bool, loops: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            refuse(node, f"the template is nested more than {MAX_DEPTH} deep; flatten it")
        match node:
            case nodes.Call():
                call(node, parent, top=top)
                return
            case nodes.Filter():
                apply(node)
            case nodes.Test() if node.name not in TESTS:
                refuse(node, f"no test {node.name!r}; there are: {', '.join(TESTS)}")
            case nodes.Getattr() if node.attr.startswith("_"):
                refuse(node, f"attribute {node.attr!r} is out of reach for a template")
            case nodes.Name() if node.name in RESERVED_NAMES or node.name.startswith("_"):
                refuse(node, f"{node.name!r} cannot be the name of a variable")
            case nodes.If() if len(node.elif_) > MAX_BRANCHES:
                refuse(node, f"a condition has {MAX_BRANCHES} branches at most; use another one")
            case nodes.For():
                loops += 1
                if loops > MAX_LOOPS or node.recursive:
                    refuse(node, f"loops can be nested {MAX_LOOPS} deep and not recursive")
        if not isinstance(node, NODES):
            refuse(node, f"{type(node).__name__.lower()!r} is not part of the template language")
        here = top and isinstance(node, nodes.Template | nodes.Output)
        for child in node.iter_child_nodes():
            walk(child, node, top=here, loops=loops, depth=depth + 1)

    walk(tree, tree, top=True, loops=0, depth=0)
    return tuple(places)
