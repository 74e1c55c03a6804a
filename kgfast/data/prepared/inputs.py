"""What `prepare` reads: files, or a table in memory, as parts that come again in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kgfast.data import blocks
from kgfast.data.formats import parts_of
from kgfast.data.header import ColumnChoice
from kgfast.data.prepared.reading import Input
from kgfast.data.resolve import find_sources
from kgfast.data.sources import Sources
from kgfast.data.tables import ROWS, SQL, is_sql, is_table, query, return_it, stream_table
from kgfast.errors import DataError


@dataclass
class Inputs:
    name: str
    triples: list[Input]
    sources: Sources | None = None  # the files; None for a table
    stamp: list | None = None  # tells whether it is the same as before; None: it can't be told


def find_inputs(source: Any, choice: ColumnChoice) -> Inputs:
    """DataError where nothing is there, or what is said of columns has no meaning."""
    if is_table(source) or is_sql(source):
        choice.check_table(source)
        table = partial(query, source[len(SQL) :]) if is_sql(source) else partial(return_it, source)
        name = "sql" if is_sql(source) else "table"
        return Inputs(name, [Input("train", name, partial(stream_table, table, name, choice), 0)])
    sources = find_sources(source)
    if sources.prepared:
        raise DataError(f"{source} is a prepared graph already")
    choice.check(source, list(sources.formats().values()))
    files = sources.files()
    stamps = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return Inputs(
        sources.name,
        [
            Input(split, path.name, partial(sources.stream, split, choice), sum(map(size_of, parts_of(path))))
            for split, path in sources.triples.items()
        ],
        sources,
        [stamps, choice.as_list(), blocks.SIZE, ROWS],  # the parts are others where these are
    )


def size_of(path: Path) -> int:
    return path.stat().st_size
