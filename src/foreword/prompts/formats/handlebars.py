"""Handlebars as prompts use it: variables, `#each`, `#if`, `#unless`, `role`, `json`. Knows no front matter.

Format: handlebarsjs.com, without HTML escapes, as in dotprompt. Helpers, partials and what else is code are
refused with their line.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from foreword.errors import ForewordError
from foreword.prompts.formats.common import Losses
from foreword.prompts.formats.sketch import MAX_DEPTH, Each, If, Mark, Node, Var, joined

TAG = re.compile(r"\{\{\{([^{}]*)\}\}\}|\{\{([^{}]*)\}\}")
ROLES = {"system": "system", "user": "user", "model": "assistant", "assistant": "assistant"}
NAMES = {"assistant": "model"}
DATA = {"index": "index0", "first": "first", "last": "last"}
SILENT = ("history", "section")
MAX_TAGS = 5_000


@dataclass
class _Tag:
    """A piece of the source: text, or what stands between braces."""

    line: int
    text: str
    tag: str | None = None


@dataclass
class _Open:
    """A block under way."""

    word: str
    path: tuple[str, ...]
    item: str
    line: int
    named: bool = False
    """Whether the template itself named its item: `as |item|`."""
    found: list[Node] = field(default_factory=list)
    first: tuple[Node, ...] | None = None
    """What stood before its `else`."""
    chained: bool = False
    """Begun by an `else if`, and so ended with the block that it stands in."""


def parse(source: str, losses: Losses) -> tuple[Node, ...]:
    """The nodes of a template; `losses` takes up what is left out."""
    return _Parser(losses, set(re.findall(r"\w+", source))).parse(_standalone(_scan(source)))


def _scan(source: str) -> list[_Tag]:
    """Text and tags. A backslash before braces makes text of them, and two make one backslash."""
    found: list[_Tag] = []
    place, line, counted, text = 0, 1, 0, ""
    while (start := source.find("{{", place)) >= 0:
        line, counted = line + source.count("\n", counted, start), start
        if source.startswith("\\\\", start - 2) and start - 2 >= place:
            text += source[place : start - 1]
        elif start > place and source[start - 1] == "\\":
            text += source[place : start - 1]
            place = source.find("{{", start + 2)
            place = len(source) if place < 0 else place
            while source[place - 1] == "\\" and place > start + 2:
                place -= 1
            text += source[start:place]
            continue
        else:
            text += source[place:start]
        tag, place = _tag(source, start, line)
        if text:
            found.append(_Tag(line, text))
        found.append(_Tag(line, "", tag))
        if len(found) > MAX_TAGS:
            raise ForewordError(f"the template has more than {MAX_TAGS:,} tags; shorten it")
        text = ""
    if text := text + source[place:]:
        found.append(_Tag(line, text))
    return found


def _tag(source: str, start: int, line: int) -> tuple[str, int]:
    """What stands between the braces at `start`, and where they end."""
    if source.startswith("{{!--", start):
        end = source.find("--}}", start)
        if end < 0:
            raise ForewordError(f"line {line}: a comment is not closed")
        return "!", end + 4
    match = TAG.match(source, start)
    if match is None or source.startswith("{{{{", start):
        what = "a raw block" if match else "'{{' without its '}}'"
        raise ForewordError(f"line {line}: {what}; write \\{{{{ for braces that are meant as text")
    return next(group for group in match.groups() if group is not None).strip(), match.end()


def _alone(tags: Sequence[_Tag], number: int) -> bool:
    """Whether a block's tag, an `else` or a comment has its line to itself."""
    word = (tags[number].tag or "").strip("~").strip()
    if word[:1] not in ("#", "/", "^", "!") and word.split(" ")[0] != "else":
        return False
    before, after, last = number - 1, number + 1, len(tags) - 1
    begins = r"(^|\n)[ \t]*\Z" if before == 0 else r"\n[ \t]*\Z"
    ends = r"[ \t]*(\r?\n|\Z)" if after == last else r"[ \t]*\r?\n"
    start = number == 0 or (tags[before].tag is None and re.search(begins, tags[before].text) is not None)
    end = number == last or (tags[after].tag is None and re.match(ends, tags[after].text) is not None)
    return start and end


def _standalone(tags: Sequence[_Tag]) -> list[_Tag]:
    """A tag that has its line to itself takes the whole line away; '~' takes all blanks on its side."""
    texts = [tag.text for tag in tags]
    for number, tag in enumerate(tags):
        if tag.tag is None:
            continue
        before, after = number - 1, number + 1
        if _alone(tags, number):
            if number:
                texts[before] = texts[before].rstrip(" \t")
            if after < len(tags):
                texts[after] = re.sub(r"\A[ \t]*\r?\n?", "", texts[after], count=1)
        if tag.tag.startswith("~") and number:
            texts[before] = texts[before].rstrip()
        if tag.tag.endswith("~") and after < len(tags):
            texts[after] = texts[after].lstrip()
    return [replace(tag, text=text) for tag, text in zip(tags, texts, strict=True)]


class _Parser:
    """From tags to nodes, block by block."""

    def __init__(self, losses: Losses, words: set[str]) -> None:
        self._losses = losses
        self._words = words
        """All that an item must not be called: the template may mean something else by it."""
        self._stack = [_Open("", (), "", 1)]

    def parse(self, tags: Sequence[_Tag]) -> tuple[Node, ...]:
        for tag in tags:
            if tag.tag is None:
                self._put(tag.text)
            else:
                self._read(tag.tag.strip("~").strip(), tag.line)
        if len(self._stack) > 1:
            raise ForewordError(f"line {self._stack[-1].line}: '#{self._stack[-1].word}' is not closed")
        return joined(self._stack[0].found)

    def _put(self, node: Node) -> None:
        self._stack[-1].found.append(node)

    def _read(self, tag: str, line: int) -> None:
        sign, rest = tag[:1], tag[1:].strip()
        if sign == "!":
            return
        if sign == "#":
            self._begin(rest, line)
        elif sign == "/":
            self._end(rest, line)
        elif sign == "^" and not rest:
            self._otherwise(line)
        elif tag.split(" ")[0] == "else":
            self._otherwise(line)
            if rest := tag[4:].strip():
                self._begin(rest, line)
                self._stack[-1].chained = True
        elif sign in "^>{*":
            what = "a partial" if sign == ">" else "this kind of tag"
            raise ForewordError(f"line {line}: {what} ('{{{{{tag:.60}}}}}') has no counterpart here; write it out")
        else:
            self._value(rest if sign == "&" else tag, line)

    def _value(self, tag: str, line: int) -> None:
        helper, *arguments = tag.split()
        if helper == "role" and len(arguments) == 1:
            name = arguments[0].strip("\"'")
            if name not in ROLES:
                raise ForewordError(f"line {line}: there is no role {name!r:.40} here; there are {', '.join(ROLES)}")
            self._put(Mark(ROLES[name]))
        elif helper in SILENT and not (helper == "section" and not arguments):
            self._losses.append(f"'{{{{{helper}}}}}' in line {line}")
        elif helper == "json" and len(arguments) == 1:
            self._put(Var(self._path(arguments[0], line), json=True))
        elif arguments:
            raise ForewordError(f"line {line}: the helper {helper!r:.60} has no counterpart here; write it out")
        else:
            self._put(Var(self._path(helper, line)))

    def _begin(self, rest: str, line: int) -> None:
        match = re.fullmatch(r"(each|if|unless)\s+(\S+)(?:\s+as\s+\|\s*(\w+)\s*\|)?", rest)
        if match is None or (match[3] and match[1] != "each"):
            raise ForewordError(f"line {line}: the block '#{rest:.60}' has no counterpart here; write it out")
        if len(self._stack) > MAX_DEPTH:
            raise ForewordError(f"line {line}: blocks are nested more than {MAX_DEPTH} deep; flatten them")
        item = match[3] or next(name for name in _names() if name not in self._words)
        if match[1] == "each" and not match[3]:
            self._words.add(item)
        self._stack.append(_Open(match[1], self._path(match[2], line), item, line, named=match[3] is not None))

    def _otherwise(self, line: int) -> None:
        block = self._stack[-1]
        if not block.word or block.first is not None:
            raise ForewordError(f"line {line}: 'else' without its block")
        block.first, block.found = joined(block.found), []

    def _end(self, word: str, line: int) -> None:
        block = self._stack.pop() if len(self._stack) > 1 else None
        if block is None or (not block.chained and block.word != word):
            raise ForewordError(f"line {line}: '/{word:.60}' closes no block of that name")
        last = joined(block.found)
        first, otherwise = (last, ()) if block.first is None else (block.first, last)
        match block.word:
            case "each":
                self._put(Each(block.path, block.item, first, otherwise))
            case "if":
                self._put(If(block.path, first, otherwise))
            case _:
                self._put(If(block.path, otherwise, first))
        if block.chained:
            self._end(word, line)

    def _path(self, text: str, line: int) -> tuple[str, ...]:
        """A value's name here: in a loop, names are the item's own unless '../' or '@root' leads out."""
        loops = [block for block in self._stack if block.word == "each" and block.first is None]
        rest = text
        if rest.startswith("@"):
            word, _, rest = rest[1:].partition(".")
            if word in DATA and loops and not rest:
                return ("loop", DATA[word])
            if word != "root" or not rest:
                raise ForewordError(f"line {line}: {text!r:.60} has no counterpart here")
            loops = []
        if any(loop.named and loop.item == rest.split(".")[0] for loop in loops):
            loops = []
        while rest.startswith("../"):
            if not loops:
                raise ForewordError(f"line {line}: {text!r:.60} leads out of the inputs")
            rest = rest[3:]
            loops = loops[:-1]
        names = [] if rest in ("this", ".", "") else rest.removeprefix("this.").removeprefix("./").split(".")
        path = (*(loop.item for loop in loops[-1:]), *names)
        if not path or not all(re.fullmatch(r"[^\W\d]\w*", name) for name in path):
            raise ForewordError(f"line {line}: {text!r:.60} is no name of an input")
        return path


def _names() -> Iterator[str]:
    yield "item"
    yield from (f"item{number}" for number in itertools.count(2))


def write(nodes: Sequence[Node], name: str) -> str:
    """The Handlebars of nodes. Raises ForewordError where it has no way to say something."""
    parts: list[_Tag] = []

    def tag(text: str) -> None:
        parts.append(_Tag(0, "", text))

    def put(part: Sequence[Node], loops: tuple[str, ...]) -> None:
        for node in part:
            match node:
                case str():
                    parts.append(_Tag(0, node))
                case Mark(role):
                    tag(f'role "{NAMES.get(role, role)}"')
                case Var(path=path, json=as_json):
                    tag(("json " if as_json else "") + _way(path, loops, name))
                case Each(path=path, item=item):
                    tag(f"#each {_way(path, loops, name)} as |{item}|")
                    rest("each", node.body, node.otherwise, (*loops, item), loops)
                case If(path=path, then=(), otherwise=otherwise):
                    tag(f"#unless {_way(path, loops, name)}")
                    rest("unless", otherwise, (), loops, loops)
                case If(path=path):
                    tag(f"#if {_way(path, loops, name)}")
                    rest("if", node.then, node.otherwise, loops, loops)

    def rest(
        word: str,
        then: Sequence[Node],
        otherwise: Sequence[Node],
        inside: tuple[str, ...],
        outside: tuple[str, ...],
    ) -> None:
        put(then, inside)
        if otherwise:
            tag("else")
            put(otherwise, outside)
        tag(f"/{word}")

    put(nodes, ())
    text = "".join(_written(parts))
    try:
        same = parse(text, []) == tuple(nodes)
    except ForewordError:
        same = False
    if not same:  # braces next to braces, and backslashes before them
        raise ForewordError(f"prompt {name!r}: its braces or backslashes cannot be written in Handlebars; reword them")
    return text


def _way(path: tuple[str, ...], loops: tuple[str, ...], name: str) -> str:
    """How a value is called inside these loops, whose items all have names."""
    if path[0] in loops:
        return ".".join(path)
    if path[0] == "loop":
        words = {place: word for word, place in DATA.items()}
        if len(path) != 2 or path[1] not in words or not loops:
            raise ForewordError(f"prompt {name!r}: {'.'.join(path)!r} cannot be written in Handlebars")
        return f"@{words[path[1]]}"
    return "../" * len(loops) + ".".join(path)


def _written(parts: Sequence[_Tag]) -> Iterator[str]:
    """The source of texts and tags; where a tag would take its whole line away, something is added that it may take."""
    for number, part in enumerate(parts):
        if part.tag is None:
            text = part.text.replace("{{", "\\{{")
            last = number == len(parts) - 1
            yield text + "\\" if text.endswith("\\") and not last else text
            continue
        before = number > 0 and parts[number - 1].tag is None and parts[number - 1].text[-1:] in (" ", "\t")
        after = number + 1 < len(parts) and parts[number + 1].tag is None
        alone = _alone(parts, number)
        yield "{{!}}" if alone and before else ""
        yield f"{{{{{part.tag}}}}}"
        yield "\n" if alone and not before and after else ""
