"""Names to ids: dictionary-encoded chunks of all files become one table of names and int64 ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.strings import name_order
from kgfast.errors import DataError

COLUMNS = ("head", "relation", "tail")
Rename = Callable[[pa.Array, np.ndarray], tuple[pa.Array, pa.Array]]


@dataclass
class Columns:
    """The triples of one file as names: per column a list of dictionary-encoded chunks, in the order of the
    file, and what the report must say of the file.
    """

    head: list[pa.DictionaryArray] = field(default_factory=list)
    relation: list[pa.DictionaryArray] = field(default_factory=list)
    tail: list[pa.DictionaryArray] = field(default_factory=list)
    literals: int = 0  # statements whose object is a literal: left out, for a literal is no entity
    header: str = ""  # the first line, in words, where it was taken for a header
    dropped: list[str] = field(default_factory=list)  # names of columns that were not read
    notes: list[str] = field(default_factory=list)  # what looks odd, as sentences that follow "FILE: "

    def append(self, *chunks: pa.Array) -> None:
        for name, chunk in zip(COLUMNS, chunks, strict=True):
            getattr(self, name).append(chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode())


def as_names(role: str, values: pa.Array, where: Callable[[int], str]) -> pa.Array:
    """A column of strings, or of integers whose digits are the names; `where(row)` says in an error where that is."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{where(0)}: column {role} holds {kind}; names must be strings or integers")
    names = values.cast(pa.string())
    empty = pc.fill_null(pc.equal(names, ""), True)
    if pc.any(empty).as_py():
        raise DataError(f"{where(pc.index(empty, True).as_py())}: the {role} is empty")
    return names


def number(
    columns: list[list[pa.DictionaryArray]], linked: Sequence[bool] = (), rename: Rename | None = None
) -> tuple[pa.Array, pa.Array, list[np.ndarray]]:
    """(names by id, the same as files have them, ids of each column int64): ids follow `name_order`.

    They depend on the set of names alone, not on the order of files, lines or threads. Only the chunks'
    dictionaries are hashed, so the strings of a column are never all in memory. `linked` says which columns hold
    IRIs, and `rename(names, whether one is in such a column)` gives the names of the graph and how files have
    them; what it makes equal is one name.
    """
    chunks = [chunk for column in columns for chunk in column]
    every = pa.concat_arrays([chunk.dictionary.cast(pa.large_string()) for chunk in chunks]).dictionary_encode()
    names = written = every.dictionary
    table = codes = every.indices.to_numpy()
    if rename is not None:
        renamed, written = rename(names, in_columns(columns, linked, codes, len(names)))
        renamed = renamed.dictionary_encode()
        names, place = renamed.dictionary, renamed.indices.to_numpy()
        first = np.empty(len(names), np.int64)
        first[place] = np.arange(len(place))  # any one: those of equal names are written alike
        written, table = written.take(pa.array(first)), place[codes]
    order = name_order(names)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    table = rank[table]
    numbered, start = [], 0
    for column in columns:
        parts = []
        for chunk in column:
            parts.append(table[start:][chunk.indices.to_numpy()])
            start += len(chunk.dictionary)
        numbered.append(np.concatenate(parts))
    order = pa.array(order)
    names = names.take(order)
    return names, (names if rename is None else written.take(order)), numbered


def in_columns(columns: list, chosen: Sequence[bool], codes: np.ndarray, count: int) -> np.ndarray:
    """bool [count]: which of `count` names the chosen columns hold; `codes` are those of all dictionaries in turn."""
    held, start = np.zeros(count, bool), 0
    for column, wanted in zip(columns, chosen, strict=True):
        size = sum(len(chunk.dictionary) for chunk in column)
        if wanted:
            held[codes[start : start + size]] = True
        start += size
    return held
