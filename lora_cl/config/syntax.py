"""YAML as a config is written in it: 1.1 as PyYAML reads it, but for numbers and dates."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_DEPTH = 50
STANDARD = "tag:yaml.org,2002:"

_NOT_OURS = ("int", "float", "timestamp")
_RESOLVERS = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] not in _NOT_OURS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INTEGER = r"^[-+]?(?:0|[1-9](?:_?[0-9])*)$"
_FLOAT = r"""^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)[eE][-+]?[0-9]+
             |[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)
             |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"""


class Loader(yaml.SafeLoader):
    """1e-3 is a number, as in YAML 1.2; 1:30, 017 and 2020-01-01 are text. Tags are refused."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise yaml.YAMLError("too deeply nested")
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A tag would have its value read by PyYAML's own rules, in which !!int 017 is 15."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if tag := getattr(event, "tag", None):
            name = tag.replace(STANDARD, "!!")
            what = f"the tag {name} is not read; write the value plainly, or text in quotes"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class Dumper(yaml.SafeDumper):
    """Puts in quotes what ``Loader`` would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for one in (Loader, Dumper):
    one.yaml_implicit_resolvers = {k: list(v) for k, v in _RESOLVERS.items()}
    one.add_implicit_resolver(
        f"{STANDARD}float", re.compile(_FLOAT, re.VERBOSE), list("-+.0123456789")
    )
    one.add_implicit_resolver(f"{STANDARD}int", re.compile(_INTEGER), list("-+0123456789"))


def read_as(node: yaml.ScalarNode) -> str:
    """What ``Loader`` makes of a plain word that is no text, in words; empty if it is text."""
    kind = node.tag.removeprefix(STANDARD)
    if kind == "bool":
        truth: bool = yaml.SafeLoader.bool_values[node.value.lower()]
        return str(truth).lower()
    return {"null": "nothing", "int": "a number", "float": "a number"}.get(kind, "")


def from_yaml(text: bytes) -> Any:
    """The one document of ``text``, which is well-formed."""
    loader = Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def to_yaml(value: Any) -> str:
    """``value`` as YAML that ``Loader`` reads back to the same."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False)
