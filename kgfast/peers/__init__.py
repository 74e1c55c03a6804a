"""Models and graphs of other libraries, one file a library, imported when something of it is met.

A model comes in with the same scores, or is refused by name: scores that only look alike are not taken for the same.
"""

from __future__ import annotations

from typing import Any

PYKEEN = "pykeen:"  # before the name of a dataset


def graph_arguments(source: object) -> dict[str, Any] | None:
    """What `KnowledgeGraph.from_arrays` makes a graph of another library from; None where `source` is none."""
    named = isinstance(source, str) and source.startswith(PYKEEN)
    if named or is_of("pykeen", source):
        from kgfast.peers import pykeen

        return pykeen.graph_arguments(source)
    return None


def is_of(package: str, value: object) -> bool:
    """Whether an object's class, or one that it inherits from, is of a package."""
    return any(kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)
