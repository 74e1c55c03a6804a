"""YAML read as settings: small, shallow, each key once, and every error with its line."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml
from yaml.constructor import ConstructorError

from kgfast.core.files import read_plain
from kgfast.errors import ConfigError

MOST_BYTES = 1 << 20
MOST_NODES = 100_000  # with every alias written out
DEEPEST = 40
UNKNOWN = (0, 0)  # of a node that is being measured
MERGE = "tag:yaml.org,2002:merge"
# As YAML 1.2 has numbers: 010 is no eight, and 1:30 no ninety, as in 1.1.
NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$",
    "tag:yaml.org,2002:float": r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
}


def load_file(path: str | os.PathLike, *, of_run: bool = False) -> Any:
    """What a YAML file holds; ConfigError names the file. of_run: it must be a plain file, as all of a run."""
    try:
        if of_run:
            content = read_plain(path, MOST_BYTES)
        else:
            with open(path, "rb") as file:
                content = file.read(MOST_BYTES + 1)
        text = content.decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{os.fsdecode(path)}: cannot be read: {error}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: has more than {MOST_BYTES:,} bytes, which no settings need")
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


class Loader(yaml.SafeLoader):
    """SafeLoader that refuses what never ends, where YAML's last of two equal keys would win, and what a number or a
    yes can't be made of. A date is text: no setting is one."""

    yaml_implicit_resolvers = {
        first: [
            (tag, re.compile(NUMBERS[tag]) if tag in NUMBERS else pattern)
            for tag, pattern in rules
            if tag != "tag:yaml.org,2002:timestamp"
        ]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def fetch_flow_collection_start(self, kind: Any) -> None:
        if self.flow_level >= DEEPEST:  # here, since the scanner alone would take minutes
            refuse("brackets are nested too deeply", self.get_mark())
        super().fetch_flow_collection_start(kind)

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            refuse("it is nested too deeply", self.peek_event().start_mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_document(self, node: yaml.Node) -> Any:
        measure(node, {})
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
            kind = node.tag.rpartition(":")[2]
            value = node.value if isinstance(node.value, str) else "this"
            refuse(f"{shortened(value)} is no {kind}", node.start_mark, error)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue  # what << brings may be overridden
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, int) and key.bit_length() > 64:
                refuse("no key is a number of this size", key_node.start_mark)
            if isinstance(key, Hashable):
                if key in lines:
                    raise ConstructorError(
                        None, None, f"the key {key!r} stands twice, in lines {lines[key]} and {line}"
                    )
                lines[key] = line
        return super().construct_mapping(node, deep)


def measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(number of nodes, levels) of this one and those below, every alias written out; an error where that is too much,
    or has no end."""
    if id(node) in known:
        if known[id(node)] == UNKNOWN:
            refuse("it holds itself", node.start_mark)
        return known[id(node)]
    known[id(node)] = UNKNOWN
    inner = node.value if isinstance(node, yaml.CollectionNode) else []
    parts = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
    sizes = [measure(part, known) for part in parts]
    count, depth = 1 + sum(size[0] for size in sizes), 1 + max((size[1] for size in sizes), default=0)
    if count > MOST_NODES or depth > DEEPEST:
        refuse("it is too large, or too deep, once its aliases are written out", node.start_mark)
    known[id(node)] = (count, depth)
    return count, depth


def refuse(problem: str, mark: yaml.Mark, cause: Exception | None = None) -> NoReturn:
    raise ConstructorError(None, None, f"line {mark.line + 1}: {problem}") from cause


def shortened(value: Any, most: int = 80) -> str:
    """A value as a message quotes it: cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of so many digits
        return "an integer of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}..."
