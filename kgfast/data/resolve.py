"""What a source names: a folder, a file, a built-in graph, or a dataset that was fetched. It is decided here alone."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from kgfast.data.formats import format_of, parts_of
from kgfast.data.published.fetch import datasets, fetched_folder
from kgfast.data.sources import (
    PREPARED,
    Sources,
    as_path,
    find_texts,
    folder_sources,
    split_files,
    unread,
    unread_beside,
)
from kgfast.errors import DataError

BUILT_IN = Path(__file__).parent.parent / "datasets"


def find_sources(source: Any) -> Sources:
    """Resolve a folder, a file, or the name of a graph; DataError listing what was looked for.

    A bare name of a built-in graph means that graph; a folder of the same name is reached by `./name`. The name of a
    dataset counts where there is no such folder or file.
    """
    if str(source).startswith("sql:"):
        raise DataError("a query can't be loaded by name, as a run would repeat it: KnowledgeGraph.from_sql, or --out")
    path = as_path("source", source)
    if str(source) in built_in_names():
        return folder_sources(BUILT_IN / str(source))
    if not path.exists() and str(source) in datasets():
        return sources_in(fetched_folder(str(source)))
    if path.is_dir() and not parts_of(path):
        return sources_in(path)
    if path.is_file() or path.is_dir():
        format_of(path)
        sources = Sources(path.name.split(".")[0] or path.name, {"train": path})
        sources.unread = unread_beside(path)
        return sources
    built_in, near = ", ".join(built_in_names()) or "none", difflib.get_close_matches(str(source), datasets(), 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "kgfast data list has the datasets that can be fetched"
    raise DataError(f"{source}: no such file or folder, nor a built-in graph (built in: {built_in}); {hint}")


def sources_in(folder: Path) -> Sources:
    if (folder / PREPARED).is_file():
        sources = Sources(folder.resolve().name, {}, prepared=folder)
        find_texts(folder, sources)
        return sources
    sources = folder_sources(folder)
    sources.unread = unread(folder, sources)
    return sources


def is_name(source: str) -> bool:
    """Whether it is the name of a built-in graph or of a dataset, and no path."""
    return source in built_in_names() or source in datasets()


def folder_of(source: Any) -> Path:
    """The folder of a source's files: of a graph that has a name, where it lies."""
    if str(source) in built_in_names():
        return BUILT_IN / str(source)
    path = as_path("source", source)
    if not path.exists() and str(source) in datasets():
        return fetched_folder(str(source))
    return path.parent if path.is_file() else path


def built_in_names() -> list[str]:
    if not BUILT_IN.is_dir():
        return []
    return sorted(folder.name for folder in BUILT_IN.iterdir() if folder.is_dir() and split_files(folder, "train"))
