"""YAML from outside, read within bounds; YAML of our own, written in one form. Knows nothing of what stands in it."""

from typing import Any

import yaml

from foreword.errors import ForewordError

MAX_YAML = 50_000
"""Characters: reading YAML takes some 10 µs for each."""
MAX_DIGITS = 100
"""Of a whole number: Python refuses to write one of thousands out, and YAML has ways to spell those."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's, where PyYAML has it: ten times as fast."""

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        found: int = super().construct_yaml_int(node)
        return found


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Dumper(yaml.SafeDumper):
    """One field a line, short lists within it. Text with line ends is quoted: otherwise PyYAML loses some of them."""

    def serialize(self, node: Any) -> None:
        node.flow_style = False
        super().serialize(node)

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def read_yaml(text: str, source: str) -> Any:
    """What `text` holds; an empty one is an empty mapping. Aliases are refused. `source` is named in errors."""
    if len(text) > MAX_YAML:
        raise ForewordError(f"{source!r} has {len(text):,} characters of YAML, {MAX_YAML:,} at most")
    try:
        # Aliases let a small file unfold into a huge one, and nobody needs them here.
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise ForewordError(f"{source!r}: aliases (*name) are not allowed; write the value out")
        return yaml.load(text, Loader=_Loader) or {}
    except ForewordError:
        raise
    except Exception as error:  # PyYAML lets all kinds slip: IndexError for `!!int ""`, OverflowError for "\\UFFFFFFFF"
        raise ForewordError(f"{source!r}: this is no YAML: {yaml_message(error)}") from error


def write_yaml(fields: dict[str, Any]) -> str:
    """A mapping in the order that it has."""
    text: str = yaml.dump(
        fields, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=None
    )
    return text


def yaml_message(error: Exception) -> str:
    """`line 3: could not find expected ':'`: what PyYAML says, with the line in the text that it was given."""
    mark, said = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if not isinstance(error, yaml.MarkedYAMLError) or said is None:
        return " ".join(str(error).split())
    hint = ""
    if "mapping values are not allowed" in said:
        said, hint = "a ':' where none can stand", "; put the text in quotes, or look at how far it is indented"
    return (f"line {mark.line + 1}: " if mark is not None else "") + " ".join(said.split()) + hint
